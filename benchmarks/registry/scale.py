"""What a store of 1,000 tasks with 100 versions each answers, how fast, and in how much memory.

Builds it once through the real publish of the catalogue, with a real manifest as a blob for each version and the
weights shared, version by version through all tasks; about ten minutes, kept in --folder and used again. Then measures,
each in a fresh process: resolving an alias, the commands that list and show, `verify --metadata`, and rebuilding the
catalogue from the journal and the manifests. Prints a table; JSON in benchmarks/results/registry_scale.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.support.figures import RESULTS, Goal, machine, print_goals, quantile, write
from store.adapters.manifests import entry_of
from store.records.evidence import Lineage
from store.records.manifest import Manifest
from store.registry.store import Store

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests"))
from support.toy_backbone import make_toy, tune  # noqa: E402  (the tests' real backbone and PEFT folder)

TEAMS = ("garden", "field", "greenhouse")
COMMAND = str(Path(sys.executable).with_name("onetrunk"))


@dataclass(frozen=True)
class Measured:
    """A command run some times: seconds on the wall and of the processor, and the most memory resident, in MB."""

    name: str
    runs: int
    p50_s: float
    p90_s: float
    cpu_p50_s: float
    resident_mb: float


def main() -> None:
    options = parse()
    root = options.folder / "store"
    build_s = build(root, tasks=options.tasks, versions=options.versions)
    rows = [measure(name, command, options.runs) for name, command in listings(root, options).items()]
    rows += [measure(name, command, 1) for name, command in scans(root, options.folder).items()]
    resolves = ask("resolve.py", str(root), str(options.resolves))
    for row in rows:
        times = f"p50 {row.p50_s:>7.3f} s   p90 {row.p90_s:>7.3f} s   cpu {row.cpu_p50_s:>7.3f} s"
        print(f"{row.name:<34} {times}   {row.resident_mb:>6.0f} MB   {row.runs} runs")
    for kind in ("find", "resolve", "resolve_cpu"):
        times = f"p50 {resolves[f'{kind}_p50_ms']:>7.3f} ms  p99 {resolves[f'{kind}_p99_ms']:>7.3f} ms"
        print(f"{f'{kind} of an alias, in process':<34} {times}  {resolves['resident_mb']:>6.0f} MB")
    goals = goals_of({row.name: row for row in rows}, resolves)
    print_goals(goals)
    report = {
        "machine": machine(),
        "tasks": options.tasks,
        "versions_of_each": options.versions,
        "build_s": build_s,
        "commands": [asdict(row) for row in rows],
        "resolve": resolves,
    }
    write(options.out, report, goals=goals)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--versions", type=int, default=100)
    parser.add_argument("--runs", type=int, default=20, help="of each command that lists or shows")
    parser.add_argument("--resolves", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "onetrunk-scale")
    parser.add_argument("--out", type=Path, default=RESULTS / "registry_scale.json")
    return parser.parse_args()


def task_name(index: int) -> str:
    return f"{TEAMS[index % len(TEAMS)]}/task-{index:04d}"


def build(root: Path, *, tasks: int, versions: int) -> float | None:
    """Fill the store up to these numbers; return the seconds that it took, None where it was there."""
    made = not root.exists()
    with Store.open(root, create=made) as store:
        template = publish_template(store) if made else store.resolve("template").manifest
        known = store.queries.next_versions()
        wanted = [(task_name(i), n) for n in range(1, versions + 1) for i in range(tasks)]
        missing = [(task, n) for task, n in wanted if known.get(task, 1) <= n]
        started = time.monotonic()
        for count, (task, number) in enumerate(missing):
            publish(store, template, task, number, versions)
            if count % 5000 == 0:
                print(f"built {count} of {len(missing)}", file=sys.stderr)
    return round(time.monotonic() - started, 1) if missing else None


def publish_template(store: Store) -> Manifest:
    toy = make_toy()
    store.add_backbone(toy.record, toy.weights)
    with tempfile.TemporaryDirectory() as scratch:
        folder = tune(Path(scratch) / "folder", depth=2)
        return store.publish("template", folder, backbone=toy.record.name, depth=2).manifest


def publish(store: Store, template: Manifest, task: str, number: int, versions: int) -> None:
    """Register a manifest that differs from the others in its lineage; half-way versions are in production."""
    manifest = replace(template, task=task, lineage=Lineage(data=task, recipe={"seed": number}))
    blob = store.blobs.put(manifest.to_json())
    names = ("latest", "production") if number == max(1, versions // 2) else ("latest",)
    made = store.catalogue.publish(task, entry_of(manifest, blob), aliases=names).version
    assert made == number, f"{task}: expected version {number}, got {made}"
    if number == 1:
        store.set_tag(task, "team", task.partition("/")[0])


def listings(root: Path, options: argparse.Namespace) -> dict[str, Sequence[str]]:
    """Return the commands that answer at once, and what Python and the two libraries of the screen take alone."""
    task = task_name(options.tasks // 2)
    ours = {
        "onetrunk ls": ["ls"],
        "onetrunk ls --after": ["ls", "--after", task],
        "onetrunk ls --search": ["ls", "--search", f"task-{options.tasks // 2:04d}"],
        "onetrunk ls --tag": ["ls", "--tag", "team=field"],
        "onetrunk ls TASK": ["ls", task],
        "onetrunk show": ["show", f"{task}@production"],
        "onetrunk history": ["history", task],
    }
    alone = {"python -c pass": "pass", "python -c 'import typer, rich'": "import typer, rich.console, rich.table"}
    return {name: [sys.executable, "-c", code] for name, code in alone.items()} | {
        name: [COMMAND, *words, "--store", str(root)] for name, words in ours.items()
    }


def scans(root: Path, folder: Path) -> dict[str, Sequence[str]]:
    """Return the commands that look at everything."""
    again = folder / "rebuilt.sqlite"
    for path in folder.glob(f"{again.name}*"):
        path.unlink()
    rebuild = f"import sys; from store.maintenance.rebuild import rebuild; rebuild({str(root)!r}, catalogue='sqlite:///{again}')"
    return {
        "onetrunk verify --metadata": [COMMAND, "verify", "--metadata", "--store", str(root)],
        "rebuild of the catalogue": [sys.executable, "-c", rebuild],
    }


def measure(name: str, command: Sequence[str], runs: int) -> Measured:
    told = ask("command.py", str(runs), *command)
    seconds = told["seconds"]
    cpu = round(quantile(told["cpu_seconds"], 0.5), 4)
    p50, p90 = (round(quantile(seconds, q), 4) for q in (0.5, 0.9))
    return Measured(name, runs, p50_s=p50, p90_s=p90, cpu_p50_s=cpu, resident_mb=round(told["resident_mb"], 1))


def ask(reader: str, *arguments: str) -> dict[str, Any]:
    """Run one of `readers/` in a process of its own, and return what it prints."""
    command = [sys.executable, str(HERE / "readers" / reader), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def goals_of(rows: dict[str, Measured], resolves: dict[str, Any]) -> list[Goal]:
    resident = max([resolves["resident_mb"], *(row.resident_mb for row in rows.values())])
    return [
        Goal("resolve of an alias, warm, p99, ms", resolves["resolve_p99_ms"], 1.0, most=True),
        Goal("onetrunk ls, first page, p50, s", rows["onetrunk ls"].p50_s, 0.3, most=True),
        Goal("onetrunk verify --metadata, s", rows["onetrunk verify --metadata"].p50_s, 30.0, most=True),
        Goal("most memory of any of these, MB", resident, 200.0, most=True),
    ]


if __name__ == "__main__":
    main()
