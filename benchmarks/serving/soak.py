"""Memory of a server over a long load, while tasks are published and retired.

Four tenants ask a real server on the packaged backbone at --load of its peak, open loop. Meanwhile a small task is
published every --every seconds, asked for, and removed a minute later; what is removed is collected once a minute. The
first fifth of the time does not count; then the mean of the last fifth of the samples of memory is compared with that
of the first. Prints the figures; JSON, with the samples, in benchmarks/results/soak.json.

    python -m benchmarks.serving.soak
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import Counter, deque
from pathlib import Path

from benchmarks.serving.rivals.tenants import CLASSES, TenantServer, tenant_server
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.load.plan import Plan, run_load, start_load
from benchmarks.support.machine_load import cpu_use
from benchmarks.support.options import make_parser, settings_of
from benchmarks.support.tasks import publish_lora
from store.errors import ConflictError
from store.maintenance.garbage import collect_garbage
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import load_backbone

TENANTS, TASKS, CONNECTIONS = ("ann", "bob", "cy", "dee"), 4, 64
RETIRE_AFTER_S, COLLECT_EVERY_S, SAMPLE_EVERY_S = 60.0, 60.0, 1.0
ASKS = 8  # for each new task, so that every replica has it
GROWTH = 1.05


class Publisher(threading.Thread):
    """Publishes and retires tasks until it is told to stop; counts what happened."""

    def __init__(self, server: TenantServer, every_s: float) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._server, self._every_s = server, every_s
        self._stop_asked = threading.Event()
        self._backbone = load_backbone(DEFAULT_BACKBONE)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()

    def run(self) -> None:
        live: deque[tuple[str, float]] = deque()
        collected = time.monotonic()
        with Store.open(self._server.store) as store:
            while not self._stop_asked.wait(self._every_s):
                task = f"ann/soak-{self.counts['published']}"
                publish_lora(store, task, self._backbone, rank=4, depth=4, classes=CLASSES,
                             seed=self.counts["published"])  # fmt: skip
                self.counts["published"] += 1
                self._ask(task)
                live.append((task, time.monotonic()))
                while live and time.monotonic() - live[0][1] > RETIRE_AFTER_S:
                    self._retire(store, live)
                if time.monotonic() - collected > COLLECT_EVERY_S:
                    collect_garbage(store)
                    collected = time.monotonic()

    def _ask(self, task: str) -> None:
        request = self._server.requests("ann")[0].replace(b"ann/task-0", task.encode())
        load = run_load(Plan(self._server.port, [request], 0.5, ASKS))
        self.counts["new task answered"] += len(load.answered)
        self.counts["new task failed"] += len(load.failed)

    def _retire(self, store: Store, live: deque[tuple[str, float]]) -> None:
        task, _ = live.popleft()
        try:
            store.remove(task, all_versions=True)
            self.counts["retired"] += 1
        except ConflictError:  # a replica still holds its lease
            live.append((task, time.monotonic()))
            self.counts["retired later"] += 1


def main() -> None:
    options = parse()
    seconds = 60 * options.minutes
    with (
        tempfile.TemporaryDirectory() as folder,
        tenant_server(Path(folder), TENANTS, tasks=TASKS, plain=options.plain) as server,
    ):
        requests = [request for tenant in TENANTS for request in server.requests(tenant)]
        peak = run_load(Plan(server.port, requests, min(10.0, seconds / 4), 16)).rate
        publisher = Publisher(server, options.every)
        with cpu_use() as cpu:
            publisher.start()
            finish = start_load(Plan(server.port, requests, seconds, CONNECTIONS, rate=options.load * peak))
            memory = sample_memory(server, seconds)
            publisher.stop()
            load = finish()
    growth = growth_of([nbytes for _, nbytes in memory])
    statuses = dict(Counter(sample.status for sample in load.samples))
    print(
        f"{len(load.samples):,} requests at {options.load * peak:.1f}/s, statuses {statuses}; {dict(publisher.counts)}"
    )
    print(f"memory {memory[0][1] >> 20} MiB at first, {memory[-1][1] >> 20} MiB in the end")
    goals = [
        Goal("memory of the last fifth / of the first that counts", growth, GROWTH, most=True),
        Goal("requests that failed", len(load.failed), 0, most=True),
    ]
    settings = settings_of(options)
    figures = {
        "peak": peak, "statuses": statuses, "tasks": dict(publisher.counts), "memory": memory,
        "p50_ms": 1000 * load.latency_s(0.5), "p99_ms": 1000 * load.latency_s(0.99), "foreign_cores": cpu.foreign,
    }  # fmt: skip
    conclude(options.out, {**machine(), **settings, **figures}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="soak.json")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--load", type=float, default=0.7, help="of the peak")
    parser.add_argument("--every", type=float, default=5.0, help="seconds from one new task to the next")
    parser.add_argument("--plain", action="store_true", help="the API on uvicorn alone, without Ray")
    parser.add_argument("--quick", action="store_true", help="on uvicorn alone, six seconds")
    options = parser.parse_args()
    if options.quick:
        options.plain, options.minutes, options.every = True, 0.1, 1.0
    return options


def sample_memory(server: TenantServer, seconds: float) -> list[tuple[float, int]]:
    """Return seconds from the start with the bytes of memory then, until the time is over."""
    start, samples = time.monotonic(), []
    while (now := time.monotonic() - start) < seconds:
        samples.append((round(now, 1), server.memory_nbytes()))
        time.sleep(SAMPLE_EVERY_S)
    return samples


def growth_of(nbytes: list[int]) -> float:
    """Return the mean of the last fifth over the mean of the second."""
    fifth = max(1, len(nbytes) // 5)
    return statistics.fmean(nbytes[-fifth:]) / statistics.fmean(nbytes[fifth : 2 * fifth])


if __name__ == "__main__":
    main()
