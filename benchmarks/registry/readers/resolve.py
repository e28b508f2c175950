"""Resolve aliases of random tasks in one process: the arguments are the store's root and the number of calls.

`find` asks the catalogue alone (the version and its digest), `resolve` reads and checks the manifest too.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from serving.benchmark.quantiles import quantile
from store.registry.read_only_store import ReadOnlyStore


def main() -> None:
    root, count = sys.argv[1], int(sys.argv[2])
    with ReadOnlyStore.open(root) as store:
        names = [(task, alias) for task in store.queries.tasks() for alias in store.aliases(task)]
        shuffled = random.Random(0).choices(names, k=count)
        find_ms = times(lambda task, alias: store.queries.find(task, alias=alias), shuffled)
        resolve_ms = times(lambda task, alias: store.resolve(f"{task}@{alias}"), shuffled)
        cpu_ms = times(lambda task, alias: store.resolve(f"{task}@{alias}"), shuffled, time.thread_time)
    report = {"aliases": len(names), **summary("find", find_ms), **summary("resolve", resolve_ms)}
    report |= summary("resolve_cpu", cpu_ms)  # as on a machine that does nothing else
    print(json.dumps({**report, "resident_mb": peak_kib() * 1024 / 1e6}))


def times(
    ask: Callable[[str, str], object], names: list[tuple[str, str]], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the milliseconds of each call, after each was made once."""
    for task, alias in set(names):
        ask(task, alias)
    milliseconds = []
    for task, alias in names:
        started = clock()
        ask(task, alias)
        milliseconds.append(1000 * (clock() - started))
    return milliseconds


def peak_kib() -> int:
    """Return the most memory that this program has held; `getrusage` would count its parent's, too."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0])


def summary(name: str, milliseconds: list[float]) -> dict[str, float]:
    return {f"{name}_p50_ms": quantile(milliseconds, 0.5), f"{name}_p99_ms": quantile(milliseconds, 0.99)}


if __name__ == "__main__":
    main()
