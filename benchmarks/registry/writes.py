"""How many versions a second P processes register on one SQLite file, all of them versions of one task.

Ours twice: the metadata alone (`catalogue`: what MLflow's `create_model_version` does), and the whole publish of a
small PEFT folder (`publish`: its files, each on disk before the catalogue names it). Beside them MLflow with its
defaults (`pip install onetrunk[bench]`, or --peer-python of another venv). All three take turns in one run, from
processes that are up before the clock starts; afterwards the versions must be dense and unique, and the acknowledged
ones. Prints a table; JSON in benchmarks/results/registry_writes.json.

    python -m benchmarks.registry.writes
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.toy_backbone import make_toy, tune

from benchmarks.support.figures import Goal, conclude, machine, spread, spread_of_ratios, spread_text
from benchmarks.support.options import add_store_folder, make_parser
from benchmarks.support.processes import environment
from store.registry.store import Store

WRITERS = "benchmarks.registry.writers"
LEAD_S = 0.5  # from the word to the start: longer than sixteen processes take to read it
GOALS = {8: 286.0, 16: 200.0}


@dataclass(frozen=True)
class Subject:
    """Something that registers versions: the command of one of its processes."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    rate: float
    errors: tuple[str, ...]
    sound: bool
    """Versions dense and unique from 1, and every one acknowledged once."""


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.where) as scratch, ExitStack() as stack:
        subjects = prepare(Path(scratch), options)
        crews = {s.name: [stack.enter_context(worker(s)) for _ in range(max(options.processes))] for s in subjects}
        for crew in crews.values():
            for member in crew:
                read(member)
        runs: dict[tuple[str, int], list[Run]] = {(s.name, p): [] for p in options.processes for s in subjects}
        for round_ in range(options.rounds):
            print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)
            for (name, processes), found in runs.items():
                found.append(measure(crews[name][:processes], task_name(round_, processes), options.seconds))
    report(runs, options)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="registry_writes.json")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 8, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each of them, at each number of processes")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has mlflow-skinny and alembic")
    add_store_folder(parser)
    return parser.parse_args()


def task_name(round_: int, processes: int) -> str:
    return f"round-{round_}-of-{processes}"


def prepare(scratch: Path, options: argparse.Namespace) -> list[Subject]:
    """Make an empty store each, and MLflow's models, which must be there before they have versions."""
    toy = make_toy()
    folder = tune(scratch / "folder", depth=2)
    ours = []
    for kind in ("catalogue", "publish"):
        root = scratch / kind
        with Store.open(root, create=True) as store:
            store.add_backbone(toy.record, toy.weights)
            store.publish("template", folder, backbone=toy.record.name, depth=2)
        ours.append(Subject(kind, (sys.executable, "-m", f"{WRITERS}.ours", kind, str(root), str(folder))))
    peer = (options.peer_python, "-m", f"{WRITERS}.peer", f"sqlite:///{scratch / 'mlflow.db'}")
    models = [task_name(r, p) for r in range(options.rounds) for p in options.processes]
    subprocess.run([*peer, *models], env=environment(), check=True)
    return [ours[0], Subject("MLflow", peer), ours[1]]


@contextmanager
def worker(subject: Subject) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        subject.command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(member: subprocess.Popen[str]) -> str:
    assert member.stdout is not None
    line = member.stdout.readline()
    if not line:
        raise SystemExit(f"{member.args} ended: see its message above")
    return line


def measure(crew: list[subprocess.Popen[str]], task: str, seconds: float) -> Run:
    order = json.dumps({"task": task, "start": time.monotonic() + LEAD_S, "seconds": seconds})
    for member in crew:
        assert member.stdin is not None
        member.stdin.write(order + "\n")
        member.stdin.flush()
    answers = [json.loads(read(member)) for member in crew]
    versions = sorted(version for answer in answers for version in answer["versions"])
    elapsed = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
    return Run(
        rate=len(versions) / elapsed,
        errors=tuple(error for answer in answers for error in answer["errors"]),
        sound=versions == list(range(1, len(versions) + 1)),
    )


def report(runs: dict[tuple[str, int], list[Run]], options: argparse.Namespace) -> None:
    rows = []
    print(f"{'versions a second':<18}" + "".join(f"{f'P={p}':>26}" for p in options.processes))
    for name in dict.fromkeys(name for name, _ in runs):
        cells = []
        for processes in options.processes:
            found, peer = runs[name, processes], runs["MLflow", processes]
            rate = spread([run.rate for run in found])
            ratio = spread_of_ratios([run.rate for run in found], [run.rate for run in peer])
            errors = [error for run in found for error in run.errors]
            rows.append(
                {
                    "subject": name,
                    "processes": processes,
                    "versions_per_second": rate,
                    "ratio_to_mlflow": ratio,
                    "errors": len(errors),
                    "first_error": errors[0] if errors else None,
                    "dense_and_unique": all(run.sound for run in found),
                }
            )
            cells.append(f"{spread_text(rate, '.0f')} x{ratio['median']:.2f}")
        print(f"{name:<18}" + "".join(f"{cell:>26}" for cell in cells))
    print("errors:", {f"{r['subject']} P={r['processes']}": r["errors"] for r in rows if r["errors"]} or 0)
    print("not dense and unique:", [(r["subject"], r["processes"]) for r in rows if not r["dense_and_unique"]] or 0)
    goals = [
        Goal(f"versions/s, catalogue, {p} processes", statistics.median(r.rate for r in runs["catalogue", p]), goal)
        for p, goal in GOALS.items()
        if p in options.processes
    ]
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    conclude(options.out, {"machine": machine(), **settings, "rows": rows}, goals)


if __name__ == "__main__":
    main()
