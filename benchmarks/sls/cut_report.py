"""The report of `benchmarks.sls.cut_evidence`: what its trainings show, as tables, goals and JSON."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from benchmarks.sls.cut_choices import Choice, choices
from benchmarks.sls.cut_runs import Run, TrainingPlan, features_of, find, labels_of
from benchmarks.support.figures import Goal, conclude, machine
from onetrunk.rendering.tables import to_markdown
from sls.scoring.ridge import ridge_head

SEEDS = (0, 1, 2)
WITHIN = 0.01  # of the best: the oracle depth is the smallest so near
AHEAD = ("sls", "ridge")  # whose choice before tuning is trained


@dataclass(frozen=True)
class CriterionRow:
    """A criterion over all tasks: mean depth, and points of accuracy lost to the oracle depth and to all blocks."""

    criterion: str
    mean_depth: float
    regret: float
    standard_error: float  # of the mean regret, over tasks
    worst_regret: float
    kept: float
    seconds: float
    tasks: int


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
    by_seed = [accuracy(source, folder, f"{kind}-d{depth}-s{seed}") for seed in SEEDS]
    known = [value for value in by_seed if value is not None]
    return statistics.mean(known) if known else None


def half_interval(values: Sequence[float]) -> float:
    """Return the half of the 95 % interval of a mean (Student's t)."""
    if len(values) < 2:
        return float("nan")
    error = statistics.stdev(values) / len(values) ** 0.5
    return float(stats.t.ppf(0.975, len(values) - 1) * error)


def report(ready: list[str], plan: TrainingPlan, folder: Path, out: Path, *, missing: int) -> None:
    """Print and write what is known of the tasks whose first runs are done; so many runs are missing."""
    decided = {source: choices(source, folder, "full-s0") for source in ready}
    rows = [row_of(label, decided, folder) for label in [choice.label for choice in next(iter(decided.values()))]]
    curves = {source: curve_of(source, folder) for source in ready}
    heads = [
        head_of(source, folder, choice.depth)
        for source in ready
        for choice in decided[source]
        if choice.label == "ridge" and accuracy(source, folder, f"after-d{choice.depth}-s0") is not None
    ]
    ahead = [ahead_of(source, folder, plan, name) for source in ready for name in AHEAD]
    print_choices(rows, decided)
    print_accuracies(curves, heads, ahead, folder)
    whole = {
        "machine": machine(),
        "plan": asdict(plan),
        "missing_runs": missing,
        "criteria": [asdict(row) for row in rows],
        "curves": {Path(source).stem: curve for source, curve in curves.items()},
        "oracle": {Path(source).stem: oracle(source, folder) for source in ready},
        "choices": {Path(source).stem: {c.label: asdict(c) for c in chosen} for source, chosen in decided.items()},
        "ridge_head": heads,
        "before": ahead,
    }
    conclude(out, whole, goals_of(rows, heads, ahead))


def print_choices(rows: list[CriterionRow], decided: dict[str, list[Choice]]) -> None:
    print_table(
        ("criterion", "mean depth", "regret", "SE", "worst", "kept", "s a task"),
        [(r.criterion, r.mean_depth, r.regret, r.standard_error, r.worst_regret, r.kept, r.seconds) for r in rows],
    )
    print_table(
        ("criterion", *(Path(source).stem for source in decided)),
        [
            (row.criterion, *(next(c.depth for c in chosen if c.label == row.criterion) for chosen in decided.values()))
            for row in rows
        ],
    )
    print_table(
        ("SLS score of block", *map(str, range(1, 13))),
        [
            (Path(source).stem, *next(c.scores for c in chosen if c.criterion == "sls"))
            for source, chosen in decided.items()
        ],
    )


def print_accuracies(
    curves: dict[str, dict[int, float]], heads: list[dict[str, object]], ahead: list[dict[str, object]], folder: Path
) -> None:
    print_table(
        ("task", "oracle", *(f"d={depth}" for depth in range(2, 13, 2)), "all, tuned once"),
        [
            (Path(s).stem, oracle(s, folder), *c.values(), 100 * (accuracy(s, folder, "full-s0") or 0))
            for s, c in curves.items()
        ],
    )
    print_table(
        ("task", "depth", "cut", "ridge head", "tuned again", "recovered", "s"),
        [tuple(head.values()) for head in heads],
    )
    print_table(
        ("task", "criterion", "depth", "before", "after", "points", "FLOPs"), [tuple(a.values()) for a in ahead]
    )


def curve_of(source: str, folder: Path) -> dict[int, float]:
    return {depth: 100 * (accuracy(source, folder, f"after-d{depth}-s0") or 0) for depth in range(2, 13, 2)}


def row_of(label: str, decided: dict[str, list[Choice]], folder: Path) -> CriterionRow:
    depths, regrets, kept, seconds = [], [], [], []
    for source, chosen in decided.items():
        choice = next(one for one in chosen if one.label == label)
        at = mean_accuracy(source, folder, "after", choice.depth)
        best = mean_accuracy(source, folder, "after", oracle(source, folder))
        whole = mean_accuracy(source, folder, "after", 12)
        depths.append(choice.depth)
        seconds.append(choice.seconds)
        if at is not None and best is not None and whole is not None:
            regrets.append(100 * (best - at))
            kept.append(100 * at / whole)
    return CriterionRow(
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


def ahead_of(source: str, folder: Path, plan: TrainingPlan, name: str) -> dict[str, object]:
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


def goals_of(rows: list[CriterionRow], heads: list[dict[str, object]], ahead: list[dict[str, object]]) -> list[Goal]:
    tsne = next(row.seconds for row in rows if row.criterion == "sls 0.3")
    quick = [row for row in rows if row.mean_depth <= 8 and row.seconds <= 0.01 * tsne] or rows
    best = min(quick, key=lambda row: row.regret)
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
