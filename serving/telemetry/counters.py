"""What a replica counts of its requests, on the event loop, with plain numbers."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from serving.histogram import Histogram
from serving.telemetry.paths import is_prediction
from serving.telemetry.request_record import RequestRecord
from serving.telemetry.split_counters import Outcome, SplitCounters
from serving.telemetry.top_labels import OTHER, TopLabels
from store.errors import OverloadedError

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STAGES = ("receive", "decode", "load", "queue", "blocks", "head")
RECENT_S, MOST_RECENT = 60.0, 2048
MOST_NAMES = 10_000  # tenants and tasks that are counted one by one
SETTLE_S = 60.0
T = TypeVar("T")


class Recent(NamedTuple):
    """One prediction of the last minute."""

    at: float
    tenant: str
    status: int
    seconds: float
    stages: Mapping[str, float]


@dataclass
class TenantUsage:
    """What one tenant has used since the replica started."""

    requests: int = 0
    failed: int = 0
    images: int = 0
    block_s: float = 0.0
    received: int = 0
    sent: int = 0


@dataclass
class TaskUsage:
    """How often a task was answered, and when it was last."""

    answers: int = 0
    last_at: float = 0.0


@dataclass
class VersionUsage:
    """What the requests for one version took since the replica started, in seconds; several images count one by one."""

    requests: int = 0
    failed: int = 0
    images: int = 0
    seconds: float = 0.0
    failed_s: float = 0.0
    last_at: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def add(self, record: RequestRecord, seconds: float, stages: Mapping[str, float]) -> None:
        self.requests += 1
        if record.status != 200:
            self.failed += 1
            self.failed_s += seconds
            return
        self.images += record.images
        self.seconds += seconds
        self.last_at = record.at + seconds
        for stage, took in stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + took


class RequestCounters:
    """Written by the event loop alone; `tenants` and `tasks` bound the series that a metric has of each."""

    def __init__(self, *, tenants: int, tasks: int) -> None:
        self._tenant_labels, self._task_labels = TopLabels(tenants), TopLabels(tasks)
        self._settled = time.monotonic()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """By route, tenant and status."""
        self.finished = 0
        self.images: Counter[str] = Counter()
        self.block_s: defaultdict[str, float] = defaultdict(float)
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        """By task; those before it by tenant."""
        self.depths: Counter[int] = Counter()
        """Answers by the depth of their version."""
        self.saved: Counter[int] = Counter()
        """Blocks of the backbone that answers of versions of this depth did without."""
        self.row_blocks_asked = 0
        """Blocks of all answers, if no two of them had shared any."""
        self.seconds = {route: Histogram(SECONDS) for route in ("predict", "registry")}
        self.stages = {stage: Histogram(SECONDS) for stage in STAGES}
        self.tenant_usage: dict[str, TenantUsage] = {}
        self.task_usage: dict[str, TaskUsage] = {}
        self.version_usage: dict[str, VersionUsage] = {}
        """By TASK:NUMBER."""
        self.splits = SplitCounters()
        self.degraded = 0
        """Answers of shallower versions under overload."""
        self.recent: deque[Recent] = deque(maxlen=MOST_RECENT)

    def count(self, record: RequestRecord, seconds: float, stages: Mapping[str, float]) -> None:
        """Count a request that is over, with the seconds of its stages."""
        predicts = is_prediction(record.path)
        route = "predict" if predicts else "registry"
        tenant, engine_s = record.tenant, record.engine_s
        label = self._tenant_labels.label(tenant)
        self.finished += 1
        self.requests[route, label, record.status] += 1
        self.received[label] += record.received
        self.sent[label] += record.sent
        self.seconds[route].add(seconds)
        usage = bounded(self.tenant_usage, tenant, TenantUsage)
        usage.requests += 1
        usage.failed += record.status >= 400
        usage.received += record.received
        usage.sent += record.sent
        if not predicts:
            return
        self.images[label] += record.images
        self.block_s[label] += engine_s
        usage.images += record.images
        usage.block_s += engine_s
        for stage, took in stages.items():
            self.stages[stage].add(took)
        for version in record.versions:
            bounded(self.version_usage, f"{version.task}:{version.number}", VersionUsage).add(record, seconds, stages)
        self._count_splits(record, seconds)
        self.recent.append(Recent(record.at + seconds, tenant, record.status, seconds, stages))
        if record.status == 200:
            self._count_answers(record)

    def settle(self) -> None:
        """Once a minute, let the busiest names have the series."""
        if time.monotonic() - self._settled < SETTLE_S:
            return
        self._settled = time.monotonic()
        dropped = set(self._tenant_labels.settle())
        for key in [key for key in self.requests if key[1] in dropped]:
            del self.requests[key]
        for name in dropped:
            self.block_s.pop(name, None)
            for counter in (self.images, self.received, self.sent):
                counter.pop(name, None)
        for name in self._task_labels.settle():
            self.answers.pop(name, None)

    def _count_splits(self, record: RequestRecord, seconds: float) -> None:
        """Count the versions of splits, but for what is the client's mistake or the load's."""
        failed = record.status >= 500
        if record.status != 200 and (not failed or isinstance(record.cause, OverloadedError)):
            return
        self.degraded += sum(choice.degraded for choice in record.choices) * (not failed)
        outcome = Outcome(record.at + seconds, failed, seconds, None)
        for choice in record.choices:
            if choice.split is not None:
                self.splits.count(choice.split, choice.version.number, choice.part, outcome)

    def _count_answers(self, record: RequestRecord) -> None:
        images = record.images or 1
        for version in record.versions:
            depth = version.manifest.depth
            self.depths[depth] += images
            self.saved[depth] += (version.manifest.prune_index.blocks - depth) * images
            self.row_blocks_asked += depth * images
            self.answers[self._task_labels.label(version.task)] += images
            usage = bounded(self.task_usage, version.task, TaskUsage)
            usage.answers += images
            usage.last_at = record.at


def bounded(table: dict[str, T], name: str, make: type[T]) -> T:
    """Return the entry of the name; once the table is full, that of all further names."""
    entry = table.get(name)
    if entry is None:
        if len(table) >= MOST_NAMES:
            name = OTHER
        entry = table.setdefault(name, make())
    return entry
