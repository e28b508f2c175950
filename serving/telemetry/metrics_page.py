"""Snapshots as a page of Prometheus metrics; each series has its replica's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from serving.histogram import Buckets
from serving.runtime.choices import SHADOW
from serving.telemetry.refusals import read_refusals
from serving.telemetry.snapshot import Snapshot

PREFIX = "onetrunk_"
Value = float | int
T = TypeVar("T")
Labelled = Mapping[tuple[str, ...], Value]


class Page(NamedTuple):
    """The bytes of an answer and what they are."""

    body: bytes
    content_type: str


def metrics_page(snapshots: Sequence[Snapshot], missing: int, accept: str) -> Page:
    """Return the page in the format that the client accepts."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshots, missing))
    return Page(encode(registry), content_type)


class SnapshotCollector(Collector):
    """The metrics of some snapshots; docs/observing.md lists them."""

    def __init__(self, snapshots: Sequence[Snapshot], missing: int) -> None:
        self._snapshots, self._missing = snapshots, missing

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(f"{PREFIX}replicas", "Replicas that answered.", value=len(self._snapshots))
        yield GaugeMetricFamily(f"{PREFIX}replicas_missing", "Replicas that did not answer.", value=self._missing)
        yield self._refusals()
        yield from self._requests()
        yield from self._engine()
        yield from self._splits()
        yield from self._memory()
        yield from self._store()
        yield self._info()

    def _refusals(self) -> Metric:
        refused = CounterMetricFamily(
            f"{PREFIX}ingress_refused", "Requests that no replica saw.", labels=("status", "reason")
        )
        for series, count in read_refusals().items():
            refused.add_metric(series, count)
        return refused

    def _requests(self) -> Iterator[Metric]:
        each = self._snapshots
        yield counter(
            "requests", "HTTP requests.", ("route", "tenant", "status"),
            ((s, {(r, t, str(c)): n for (r, t, c), n in s.requests.items()}) for s in each),
        )  # fmt: skip
        yield counter("images", "Images of predictions.", ("tenant",), ((s, by_name(s.images)) for s in each))
        yield counter(
            "block_seconds", "Engine time of answered and refused requests, by their shares of each call's row-blocks.",
            ("tenant",), ((s, by_name(s.block_s)) for s in each),
        )  # fmt: skip
        yield counter("received_bytes", "Bytes of bodies.", ("tenant",), ((s, by_name(s.received)) for s in each))
        yield counter("sent_bytes", "Bytes of answers.", ("tenant",), ((s, by_name(s.sent)) for s in each))
        yield counter("answers", "Predictions, by task.", ("task",), ((s, by_name(s.answers)) for s in each))
        yield histogram("request_seconds", "Time of a request.", ("route",), ((s, by_name(s.seconds)) for s in each))
        yield histogram(
            "stage_seconds", "Time of a prediction in each stage.", ("stage",), ((s, by_name(s.stages)) for s in each)
        )
        yield counter(
            "log_lines_dropped", "Log lines that nobody read.", (), ((s, {(): s.lines_dropped}) for s in each)
        )

    def _engine(self) -> Iterator[Metric]:
        each = self._snapshots
        yield counter("engine_busy_seconds", "Time in calls.", (), ((s, {(): s.predictor.busy_s}) for s in each))
        yield counter("engine_calls", "Calls of the engine.", (), ((s, {(): s.predictor.engine_calls}) for s in each))
        yield counter("blocks", "Blocks run, for each row.", (), ((s, {(): s.predictor.row_blocks}) for s in each))
        yield counter(
            "blocks_saved", "Blocks that answers did without, as their version's depth is below the backbone's.",
            ("depth",), ((s, {(str(d),): n for d, n in s.saved.items()}) for s in each),
        )  # fmt: skip
        yield counter(
            "answers_by_depth", "Predictions, by depth.", ("depth",),
            ((s, {(str(d),): n for d, n in s.depths.items()}) for s in each),
        )  # fmt: skip
        yield histogram("batch_rows", "Rows of a batch.", (), ((s, {(): s.predictor.batch_rows}) for s in each))
        yield counter(
            "backbone_blocks", "Blocks run, by backbone.", ("backbone",),
            ((s, {(b.name,): b.row_blocks for b in s.predictor.backbones}) for s in each),
        )  # fmt: skip
        yield counter(
            "backbone_busy_seconds", "Time in calls, by backbone.", ("backbone",),
            ((s, {(b.name,): b.busy_s for b in s.predictor.backbones}) for s in each),
        )  # fmt: skip
        yield gauge("requests_waiting", "Images in or before the engine.", ((s, s.predictor.waiting) for s in each))
        yield gauge("images_decoding", "Images that wait to be decoded.", ((s, s.predictor.decoding) for s in each))

    def _splits(self) -> Iterator[Metric]:
        each, names = self._snapshots, ("alias", "version", "part")
        yield counter(
            "split_requests", "Requests of split aliases.", (*names, "outcome"), ((s, outcomes_of(s)) for s in each)
        )
        yield counter(
            "split_comparisons", "Answers of shadows.", (*names, "outcome"), ((s, comparisons_of(s)) for s in each)
        )
        yield histogram(
            "split_seconds", "Time of a request of a split alias.", names,
            ((s, {name: part.seconds for name, part in s.splits.items()}) for s in each),
        )  # fmt: skip
        yield counter(
            "shadows_skipped", "Images that a busy shadow was not asked about.", (),
            ((s, {(): s.shadows_skipped}) for s in each),
        )  # fmt: skip
        yield counter(
            "splits_ended", "Splits that ended by their rules.", ("outcome",),
            ((s, by_name(s.splits_ended)) for s in each),
        )  # fmt: skip
        yield counter("degraded_answers", "Answers of shallower versions.", (), ((s, {(): s.degraded}) for s in each))

    def _memory(self) -> Iterator[Metric]:
        each = self._snapshots
        yield counter("cache_hits", "Tasks found in memory.", (), ((s, {(): s.predictor.cache_hits}) for s in each))
        yield counter("cache_loads", "Tasks loaded.", (), ((s, {(): s.predictor.cache_loads}) for s in each))
        yield counter("cache_evictions", "Tasks evicted.", (), ((s, {(): s.predictor.cache_evictions}) for s in each))
        yield gauge("cache_bytes", "Bytes of tasks in memory.", ((s, s.predictor.cache_nbytes) for s in each))
        yield gauge("cache_tasks", "Tasks in memory.", ((s, s.predictor.cache_tasks) for s in each))
        yield gauge("bodies_bytes", "Bytes of bodies in memory.", ((s, s.bodies_nbytes) for s in each))
        yield gauge("memory_bytes", "Resident memory of the process.", ((s, s.memory_nbytes) for s in each))
        yield counter("cpu_seconds", "CPU time of the process.", (), ((s, {(): s.cpu_s}) for s in each))
        yield gauge("start_time_seconds", "When the replica started, since 1970.", ((s, s.started) for s in each))

    def _store(self) -> Iterator[Metric]:
        each = [(snapshot, snapshot.predictor.store) for snapshot in self._snapshots]
        yield gauge("store_answers", "1 while the store answers.", ((s, int(store.answers)) for s, store in each))
        yield gauge("store_age_seconds", "Age of what is known of the store.", ((s, store.age_s) for s, store in each))
        yield gauge("versions_without_lease", "Versions in use.", ((s, store.without_lease) for s, store in each))

    def _info(self) -> Metric:
        info = InfoMetricFamily(f"{PREFIX}replica", "What a replica serves.", labels=("replica",))
        for snapshot in self._snapshots:
            state = snapshot.predictor
            names = ", ".join(backbone.name for backbone in state.backbones)
            shown = {"node": snapshot.node, "backbone": names, "dtype": state.dtype, "device": state.device}
            info.add_metric((snapshot.replica,), shown)
        return info


def by_name(values: Mapping[str, T]) -> dict[tuple[str, ...], T]:
    return {(name,): value for name, value in values.items()}


def outcomes_of(snapshot: Snapshot) -> Labelled:
    answered: Labelled = {(*name, "answered"): part.requests - part.failed for name, part in snapshot.splits.items()}
    return {**answered, **{(*name, "failed"): part.failed for name, part in snapshot.splits.items()}}


def comparisons_of(snapshot: Snapshot) -> Labelled:
    shadows = {name: part for name, part in snapshot.splits.items() if name[2] == SHADOW}
    agreed: Labelled = {(*name, "agrees"): part.agreed for name, part in shadows.items()}
    return {**agreed, **{(*name, "disagrees"): part.disagreed for name, part in shadows.items()}}


def counter(name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Snapshot, Labelled]]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}{name}", text, labels=("replica", *labels))
    for snapshot, labelled in values:
        for names, value in labelled.items():
            family.add_metric((snapshot.replica, *names), value)
    return family


def gauge(name: str, text: str, values: Iterable[tuple[Snapshot, Value]]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=("replica",))
    for snapshot, value in values:
        family.add_metric((snapshot.replica,), value)
    return family


def histogram(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Snapshot, Mapping[tuple[str, ...], Buckets]]]
) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}{name}", text, labels=("replica", *labels))
    for snapshot, named in values:
        for names, buckets in named.items():
            bounds = [*map(floatToGoString, buckets.bounds), "+Inf"]
            counts = list(zip(bounds, accumulate(buckets.counts), strict=True))
            family.add_metric((snapshot.replica, *names), counts, buckets.total)
    return family
