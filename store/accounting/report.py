"""The storage report: what every byte of the store is for, and what the same tasks would take in other forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from store.accounting.comparison import compare, resident
from store.accounting.counterfactuals import ComparedTask, Comparison, Resident
from store.accounting.facts import FactsCache
from store.accounting.flops import block_flops, mean_flops
from store.accounting.groups import groups_of
from store.accounting.growth import growth_of
from store.accounting.ownership import Ownership
from store.accounting.places import places_of
from store.accounting.rows import (
    BackboneReport,
    GroupReport,
    GrowthPoint,
    Places,
    Problem,
    TaskReport,
    VersionReport,
)
from store.accounting.seen import Seen, look
from store.accounting.versions import Counted, compared_tasks, count_tasks, count_versions
from store.registry.read_only_store import ReadOnlyStore

REPORT_FORMAT = 2
"""Raise it when a key of the JSON goes or changes its meaning; a new key needs no new format."""


@dataclass(frozen=True)
class StorageReport:
    """An account of a store: where every byte is, and whose; the rows say what they mean.

    `period` is that of the points of `growth`. One image for each task takes `run_blocks` of `all_blocks`, and
    `run_flops` of `all_flops`, None where a backbone's record does not tell. Payload is the tensors of adapters and
    heads, a shared blob once; metadata is what else is live, without the backbones' weights, and the overhead.
    `changed` is set where others changed the store while it was counted, each time it was tried.
    """

    store: str
    places: Places
    garbage_files: tuple[str, ...]
    catalogue_elsewhere: bool
    changed: bool
    problems: tuple[Problem, ...]
    payload_nbytes: int
    metadata_nbytes: int
    mean_depth: float
    run_blocks: int
    all_blocks: int
    run_flops: int | None
    all_flops: int | None
    resident: Resident
    comparison: Comparison
    backbones: tuple[BackboneReport, ...]
    groups: tuple[GroupReport, ...]
    period: str
    growth: tuple[GrowthPoint, ...]
    tasks: tuple[TaskReport, ...]
    versions: tuple[VersionReport, ...]

    @property
    def total_nbytes(self) -> int:
        return self.places.physical_nbytes

    def to_json(self) -> dict[str, object]:
        """Return the report as plain values: the same for the same store, whenever it is called."""
        return {"format": REPORT_FORMAT} | {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: object) -> object:
    if isinstance(value, TaskReport | VersionReport | GroupReport | GrowthPoint | Problem | BackboneReport):
        return value._asdict()  # flat
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if isinstance(value, Places | Resident | Comparison) else value


@dataclass(frozen=True)
class Account:
    """A report, and the references that it was added up from: what questions about removing versions need."""

    report: StorageReport
    ownership: Ownership


def storage_report(store: ReadOnlyStore, *, known: FactsCache | None = None) -> StorageReport:
    """Report on the store as it is now: the catalogue, tensor headers and file sizes are read again by each call.

    `known` keeps what manifests and headers say, which never changes, from one call to the next.
    """
    return account_of(store, known=known).report


def account_of(store: ReadOnlyStore, *, known: FactsCache | None = None) -> Account:
    """Count as `storage_report` does."""
    seen = look(store)
    counted = count_versions(seen, store.backend, {} if known is None else known)
    return Account(_report(seen, counted), seen.ownership)


def _report(seen: Seen, counted: Counted) -> StorageReport:
    tasks = count_tasks(counted.rows, seen.ownership)
    compared = compared_tasks(tasks, counted.facts, seen)
    places = places_of(seen.files, live=seen.live, removed=seen.removed, leased=set(seen.ownership.leased))
    backbones = tuple(_backbones(seen, counted.rows))
    stored = sum(backbone.stored_nbytes for backbone in backbones)
    weights = sum(backbone.weights_nbytes for backbone in backbones)
    period, growth = growth_of(seen.moments, seen.owners, seen.ownership.sizes)
    run, whole = _flops(compared)
    return StorageReport(
        store=seen.store,
        places=places,
        garbage_files=seen.files.garbage,
        catalogue_elsewhere=not places.catalogue_nbytes,
        changed=seen.changed,
        problems=(*seen.problems, *counted.problems),
        payload_nbytes=counted.payload_nbytes,
        metadata_nbytes=places.live_nbytes + places.overhead_nbytes - weights - counted.payload_nbytes,
        mean_depth=sum(task.depth for task in tasks) / len(tasks) if tasks else 0.0,
        run_blocks=sum(task.depth for task in tasks),
        all_blocks=sum(task.blocks for task in tasks),
        run_flops=run,
        all_flops=whole,
        resident=resident(compared),
        comparison=compare(
            compared,
            physical_nbytes=places.physical_nbytes,
            stored_nbytes=stored,
            left_out=len(tasks) - len(compared),
        ),
        backbones=backbones,
        groups=tuple(groups_of(counted.rows, seen.ownership)),
        period=period,
        growth=growth,
        tasks=tasks,
        versions=counted.rows,
    )


def _flops(compared: Sequence[ComparedTask]) -> tuple[int | None, int | None]:
    run = whole = 0
    records = {task.record.id.fingerprint: task.record for task in compared}
    by_backbone = {fingerprint: block_flops(record) for fingerprint, record in records.items()}
    for task in compared:
        flops = by_backbone[task.record.id.fingerprint]
        if flops is None:
            return None, None
        run += sum(flops[: task.depth])
        whole += sum(flops)
    return run, whole


def _backbones(seen: Seen, rows: Sequence[VersionReport]) -> Iterator[BackboneReport]:
    versions = Counter(row.backbone for row in rows)
    tasks = Counter(backbone for _, backbone in {(row.task, row.backbone) for row in rows})
    for row in seen.backbone_rows:
        blobs = seen.backbone_blobs[row.name]
        present = {digest: seen.files.blobs.get(digest, 0) for digest in blobs}
        record = seen.records.get(row.fingerprint)
        yield BackboneReport(
            name=row.name,
            fingerprint=row.fingerprint,
            source=record.source if record else "",
            kept_elsewhere=set(blobs) == {row.record},
            blocks=record.blocks if record else 0,
            parameters=record.parameters if record else 0,
            weights_nbytes=sum(nbytes for digest, nbytes in present.items() if digest != row.record),
            stored_nbytes=sum(present.values()),
            block_flops=mean_flops(record) if record else None,
            tasks=tasks[row.name],
            versions=versions[row.name],
        )
