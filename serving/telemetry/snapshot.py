"""What one replica knows of itself at one time, as its peers and the statistics read it."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.histogram import Buckets
from serving.runtime.predictor import Predictor, PredictorState
from serving.telemetry.counters import RECENT_S, Recent, TaskUsage, TenantUsage, VersionUsage
from serving.telemetry.recorder import FailedRequest, Recorder, Sample
from serving.telemetry.split_counters import Outcomes, PartCounts, SeriesName
from store.records.splits import AliasSplit

STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Snapshot:
    """Plain values, which pass from one process to another; times are seconds since 1970."""

    replica: str
    node: str
    pid: int
    started: float
    at: float
    memory_nbytes: int
    cpu_s: float
    bodies_nbytes: int
    predictor: PredictorState
    requests: Mapping[tuple[str, str, int], int]
    images: Mapping[str, int]
    block_s: Mapping[str, float]
    received: Mapping[str, int]
    sent: Mapping[str, int]
    answers: Mapping[str, int]
    depths: Mapping[int, int]
    saved: Mapping[int, int]
    row_blocks_asked: int
    seconds: Mapping[str, Buckets]
    stages: Mapping[str, Buckets]
    tenant_usage: Mapping[str, TenantUsage]
    task_usage: Mapping[str, TaskUsage]
    version_usage: Mapping[str, VersionUsage]
    splits: Mapping[SeriesName, PartCounts]
    outcomes: Mapping[AliasSplit, Outcomes]
    """The last outcomes of each split with rules."""
    shadows_skipped: int
    splits_ended: Mapping[str, int]
    degraded: int
    recent: Sequence[Recent]
    since: Sample
    """What had been done a minute ago, or when the replica started."""
    now: Sample
    errors: Sequence[FailedRequest]
    lines_dropped: int


@dataclass(frozen=True)
class PeerSnapshots:
    """What the replicas answered, and how many did not in time."""

    snapshots: Sequence[Snapshot]
    missing: int


Peers = Callable[[], Awaitable[PeerSnapshots]]


def take_snapshot(recorder: Recorder, predictor: Predictor, *, bodies_nbytes: int) -> Snapshot:
    """Read all counters; on the event loop, which writes them."""
    recorder.settle()
    at, counters = time.time(), recorder.counters
    counters.settle()
    return Snapshot(
        replica=recorder.replica,
        node=platform.node(),
        pid=os.getpid(),
        started=recorder.started,
        at=at,
        memory_nbytes=memory_nbytes(),
        cpu_s=time.process_time(),
        bodies_nbytes=bodies_nbytes,
        predictor=predictor.state(),
        requests=dict(counters.requests),
        images=dict(counters.images),
        block_s=dict(counters.block_s),
        received=dict(counters.received),
        sent=dict(counters.sent),
        answers=dict(counters.answers),
        depths=dict(counters.depths),
        saved=dict(counters.saved),
        row_blocks_asked=counters.row_blocks_asked,
        seconds={route: histogram.buckets() for route, histogram in counters.seconds.items()},
        stages={stage: histogram.buckets() for stage, histogram in counters.stages.items()},
        tenant_usage=dict(counters.tenant_usage),
        task_usage=dict(counters.task_usage),
        version_usage=dict(counters.version_usage),
        splits=counters.splits.series(),
        outcomes=counters.splits.outcomes(),
        shadows_skipped=counters.splits.shadows_skipped,
        splits_ended=dict(counters.splits.ended),
        degraded=counters.degraded,
        recent=tuple(recent for recent in counters.recent if recent.at >= at - RECENT_S),
        since=recorder.sample_before(at - RECENT_S),
        now=recorder.sample(at),
        errors=(*recorder.server_errors, *recorder.client_errors),
        lines_dropped=0 if recorder.log is None else recorder.log.dropped,
    )


def memory_nbytes() -> int:
    """Return the memory that this process has now; where the system does not tell, the most that it had."""
    try:
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
