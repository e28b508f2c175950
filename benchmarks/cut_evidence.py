"""Which criterion finds the depth that training finds? Real tasks and trainings, and every criterion's choice.

For every task: LoRA tuned at full depth; that model cut to every second depth and tuned again (one seed); the depth
that each criterion chooses from its features; the accuracy there and at the oracle depth (three seeds). Then the same
choice made before any training, from the frozen backbone's features, and tuned at that depth from the start; and what
a closed-form ridge head on the cut model's features recovers of what tuning again gains.

It resumes where it stopped: what is trained lies in --folder, and some three hours on 2 cores fill it. Prints tables;
JSON in benchmarks/results/cut_evidence.json. `--report` trains nothing and says what is missing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cut_choices import Choice, choices
from cut_runs import QUICK, Plan, Run, do, features_of, find, keep_plan, labels_of
from figures import Goal, machine, print_goals, write

from sls.embedded import EMBEDDED
from sls.ridge import ridge_head
from store.allocator import keep_freed_memory
from store.render import to_markdown

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
WITHIN = 0.01  # of the best: the oracle depth is the smallest so near
AHEAD = ("sls", "ridge")  # whose choice before tuning is trained


@dataclass(frozen=True)
class Row:
    """A criterion over all tasks: mean depth, and points of accuracy lost to the oracle depth and to all blocks."""

    criterion: str
    mean_depth: float
    regret: float
    standard_error: float  # of the mean regret, over tasks
    worst_regret: float
    kept: float
    seconds: float
    tasks: int


def main() -> None:
    options = parse()
    plan, folder = QUICK if options.quick else Plan(), options.folder
    keep_plan(plan, folder)
    sources = [f"onetrunk/{name}" for name in options.task or EMBEDDED] + [
        str(path) for path in sorted(options.data.glob("*.npz"))
    ]
    for stage in (first_runs, choice_runs):
        wanted = [run for source in sources for run in stage(source, folder)]
        if not options.report:
            train(wanted, plan, folder, options.processes)
    missing = [run for source in sources for run in (*first_runs(source, folder), *choice_runs(source, folder))]
    missing = [run for run in missing if find(run, folder) is None]
    print(f"missing: {len(missing)} runs" if missing else "every run is there", file=sys.stderr)
    report(sources, plan, folder, options.out, missing=len(missing))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("none"), help="folder of .npz tasks beside the embedded ones")
    parser.add_argument("--folder", type=Path, default=HERE / "results" / "cut_runs", help="where trainings are kept")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--quick", action="store_true", help="few images and one epoch: to see that it runs")
    parser.add_argument("--task", action="append", choices=EMBEDDED, help="only this embedded one; may be repeated")
    parser.add_argument("--report", action="store_true", help="train nothing: report what is there")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "cut_evidence.json")
    return parser.parse_args()


def first_runs(source: str, folder: Path) -> list[Run]:
    """Return what does not depend on a choice: full depth, the frozen backbone, and every second depth once."""
    del folder
    names = ["full-s0", "frozen", *(f"after-d{depth}-s0" for depth in range(12, 0, -2))]
    return [Run(source, name) for name in names]


def choice_runs(source: str, folder: Path) -> list[Run]:
    """Return what the criteria chose and the oracle depth, with every seed; nothing before the first runs are done."""
    if any(find(run, folder) is None for run in first_runs(source, folder)):
        return []
    after = {choice.depth for choice in choices(source, folder, "full-s0")} | {oracle(source, folder)}
    before = {c.depth for c in choices(source, folder, "frozen") if c.label.split(" ")[0] in AHEAD}
    names = [f"full-s{seed}" for seed in SEEDS]
    names += [f"after-d{depth}-s{seed}" for seed in SEEDS for depth in sorted(after | before)]
    names += [f"before-d{depth}-s{seed}" for seed in SEEDS for depth in sorted(before)]
    return [Run(source, name) for name in names]


def train(runs: Iterable[Run], plan: Plan, folder: Path, processes: int) -> None:
    """Do the runs that are missing; a run waits for the full model that it is cut from."""
    missing = [run for run in runs if find(run, folder) is None]
    for stage in (lambda name: not name.startswith("after"), lambda name: name.startswith("after")):
        now, began = [run for run in missing if stage(run.name)], time.monotonic()
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), keep_freed_memory) as pool:
            done = pool.map(partial(do, plan=plan, folder=folder), now)
            for count, (run, _) in enumerate(zip(now, done, strict=True), start=1):
                left = (time.monotonic() - began) / count * (len(now) - count)
                print(f"{count} of {len(now)}: {run.task} {run.name}, {left / 60:.0f} min left", file=sys.stderr)


def accuracy(source: str, folder: Path, name: str) -> float | None:
    """Return the test accuracy of a run at its own depth."""
    kept = find(Run(source, name), folder)
    return None if kept is None else float(kept["test"][-1])  # type: ignore[index]


def oracle(source: str, folder: Path) -> int:
    """Return the smallest of every second depth whose model, tuned again, is within a point of the best of them."""
    curve = {depth: accuracy(source, folder, f"after-d{depth}-s0") for depth in range(2, 13, 2)}
    known = {depth: value for depth, value in curve.items() if value is not None}
    return min(depth for depth, value in known.items() if value >= max(known.values()) - WITHIN)


def mean_accuracy(source: str, folder: Path, kind: str, depth: int) -> float | None:
    """Return the mean over the seeds that were run, None where none was."""
    found = [accuracy(source, folder, f"{kind}-d{depth}-s{seed}") for seed in SEEDS]
    known = [value for value in found if value is not None]
    return statistics.mean(known) if known else None


def report(sources: list[str], plan: Plan, folder: Path, out: Path, *, missing: int) -> None:
    ready = [source for source in sources if choice_runs(source, folder)]
    decided = {source: choices(source, folder, "full-s0") for source in ready}
    rows = [row_of(label, decided, folder) for label in [choice.label for choice in next(iter(decided.values()))]]
    print_table(
        ("criterion", "mean depth", "regret", "SE", "worst", "kept", "s a task"),
        [(r.criterion, r.mean_depth, r.regret, r.standard_error, r.worst_regret, r.kept, r.seconds) for r in rows],
    )
    print_table(
        ("criterion", *(Path(source).stem for source in ready)),
        [
            (row.criterion, *(next(c.depth for c in found if c.label == row.criterion) for found in decided.values()))
            for row in rows
        ],
    )
    curves = {source: curve_of(source, folder) for source in ready}
    print_table(
        ("task", "oracle", *(f"d={depth}" for depth in range(2, 13, 2)), "all, tuned once"),
        [
            (Path(s).stem, oracle(s, folder), *c.values(), 100 * (accuracy(s, folder, "full-s0") or 0))
            for s, c in curves.items()
        ],
    )
    heads = [
        head_of(source, folder, choice.depth)
        for source in ready
        for choice in decided[source]
        if choice.label == "ridge" and accuracy(source, folder, f"after-d{choice.depth}-s0") is not None
    ]
    print_table(
        ("task", "depth", "cut", "ridge head", "tuned again", "recovered", "s"),
        [tuple(head.values()) for head in heads],
    )
    ahead = [ahead_of(source, folder, plan, name) for source in ready for name in AHEAD]
    print_table(
        ("task", "criterion", "depth", "before", "after", "points", "FLOPs"), [tuple(a.values()) for a in ahead]
    )
    goals = goals_of(rows, heads, ahead)
    print_goals(goals)
    whole = {
        "machine": machine(),
        "plan": asdict(plan),
        "missing_runs": missing,
        "criteria": [asdict(row) for row in rows],
        "curves": {Path(source).stem: curve for source, curve in curves.items()},
        "oracle": {Path(source).stem: oracle(source, folder) for source in ready},
        "choices": {Path(source).stem: {c.label: asdict(c) for c in found} for source, found in decided.items()},
        "ridge_head": heads,
        "before": ahead,
    }
    write(out, whole, goals=goals)


def curve_of(source: str, folder: Path) -> dict[int, float]:
    return {depth: 100 * (accuracy(source, folder, f"after-d{depth}-s0") or 0) for depth in range(2, 13, 2)}


def row_of(label: str, decided: dict[str, list[Choice]], folder: Path) -> Row:
    depths, regrets, kept, seconds = [], [], [], []
    for source, found in decided.items():
        choice = next(one for one in found if one.label == label)
        at = mean_accuracy(source, folder, "after", choice.depth)
        best = mean_accuracy(source, folder, "after", oracle(source, folder))
        whole = accuracy(source, folder, "after-d12-s0")
        depths.append(choice.depth)
        seconds.append(choice.seconds)
        if at is not None and best is not None and whole is not None:
            regrets.append(100 * (best - at))
            kept.append(100 * at / whole)
    return Row(
        label,
        statistics.mean(depths),
        statistics.mean(regrets),
        statistics.stdev(regrets) / len(regrets) ** 0.5 if len(regrets) > 1 else float("nan"),
        max(regrets),
        statistics.mean(kept),
        statistics.mean(seconds),
        len(regrets),
    )


def head_of(source: str, folder: Path, depth: int) -> dict[str, object]:
    """Compare the full model cut at the depth: as it is, with a ridge head, tuned again; test accuracy in per cent."""
    features, labels = features_of(Run(source, "full-s0"), folder), labels_of(source, folder)
    began = time.process_time()
    head = ridge_head(features["train"].served[depth - 1], labels["train"], int(labels["train"].max()) + 1)
    seconds = time.process_time() - began
    logits = torch.from_numpy(features["test"].served[depth - 1]) @ head.weight.T + head.bias
    with_head = 100 * float((logits.argmax(dim=1).numpy() == labels["test"]).mean())
    cut = 100 * float(np.asarray((find(Run(source, "full-s0"), folder) or {})["test"])[depth - 1])
    again = 100 * (accuracy(source, folder, f"after-d{depth}-s0") or 0)
    gap = again - cut
    recovered = (with_head - cut) / gap if gap > 0 else None
    return {
        "task": Path(source).stem, "depth": depth, "cut": cut, "ridge_head": with_head, "tuned_again": again,
        "recovered": recovered, "seconds": seconds,
    }  # fmt: skip


def ahead_of(source: str, folder: Path, plan: Plan, name: str) -> dict[str, object]:
    """Compare the choice before tuning with the paper's order, which chooses from the tuned model's features."""
    first = {c.criterion: c.depth for c in choices(source, folder, "frozen") if c.label in (name, f"{name} 0.3")}
    later = {c.criterion: c.depth for c in choices(source, folder, "full-s0") if c.label in (name, f"{name} 0.3")}
    depth, after = first[name], later[name]
    before = mean_accuracy(source, folder, "before", depth)
    paper = mean_accuracy(source, folder, "after", after)
    flops = plan.epochs * depth / (plan.epochs * 12 + plan.retune_epochs * after)
    return {
        "task": Path(source).stem, "criterion": name, "depth": depth,
        "before": None if before is None else 100 * before, "after": None if paper is None else 100 * paper,
        "points": None if before is None or paper is None else 100 * (before - paper), "flops": flops,
    }  # fmt: skip


def goals_of(rows: list[Row], heads: list[dict[str, object]], ahead: list[dict[str, object]]) -> list[Goal]:
    shallow = [row for row in rows if row.mean_depth <= 8] or rows
    best = min(shallow, key=lambda row: (row.regret, row.seconds))
    tsne = next(row.seconds for row in rows if row.criterion == "sls 0.3")
    near = [h["ridge_head"] >= h["cut"] + 0.9 * (h["tuned_again"] - h["cut"]) for h in heads]  # type: ignore[operator]
    points = {n: [float(a["points"]) for a in ahead if a["criterion"] == n and a["points"] is not None] for n in AHEAD}  # type: ignore[arg-type]
    flops = {n: [float(a["flops"]) for a in ahead if a["criterion"] == n] for n in AHEAD}  # type: ignore[arg-type]
    goals = [
        Goal(f"mean regret at mean depth <= 8, points ({best.criterion})", best.regret, 0.3, most=True),
        Goal(f"its seconds / t-SNE's ({best.criterion})", best.seconds / tsne, 0.01, most=True),
        Goal("tasks where the ridge head recovers 90 %", sum(near), 5),
        Goal("slowest ridge head, s", max(float(head["seconds"]) for head in heads), 1.0, most=True),  # type: ignore[arg-type]
    ]
    for name in AHEAD:
        if points[name]:
            goals.append(Goal(f"before minus after, points ({name})", statistics.mean(points[name]), -0.5))
            goals.append(Goal(f"training FLOPs, before / after ({name})", statistics.mean(flops[name]), 0.7, most=True))
    return goals


def print_table(names: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Print a Markdown table."""
    shown = ([f"{value:.2f}" if isinstance(value, float) else value for value in row] for row in rows)
    print("\n" + to_markdown([dict(zip(names, row, strict=True)) for row in shown]))


if __name__ == "__main__":
    main()
