"""What every criterion chooses from a run's features: scored once, kept beside the run."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.sls.cut_runs import Run, features_of, labels_of
from sls.choose_depth import ScoreConfig, depth_from_features
from sls.scoring.criteria import CRITERIA
from sls.scoring.cutoff import Scoring, cut_by_share

SHARES = {"sls": (0.1, 0.3, 0.5, 0.7), "sls-authors": (0.3,), "silhouette": (0.3, 0.7), "cka": (0.3, 0.7)}


@dataclass(frozen=True)
class Choice:
    """A depth, the depths left open with it, every block's score (None: undefined), and the processor's seconds."""

    label: str
    criterion: str
    depth: int
    candidates: tuple[int, ...]
    scores: tuple[float | None, ...]
    seconds: float


def choices(source: str, folder: Path, model: str) -> list[Choice]:
    """Let every criterion decide from all training images' features of a `full` or `frozen` run."""
    kept = Run(source, f"choices-{model}").file(folder, ".json")
    if not kept.exists():
        found = [choice for name in CRITERIA for choice in _choose(name, source, folder, model)]
        kept.write_text(json.dumps([asdict(choice) for choice in found]))
    return [Choice(**value) for value in json.loads(kept.read_text())]


def _choose(name: str, source: str, folder: Path, model: str) -> list[Choice]:
    features, labels = features_of(Run(source, model), folder)["train"], labels_of(source, folder)["train"]
    began = time.process_time()
    index = depth_from_features(features, labels, ScoreConfig(criterion=name, every=True))
    seconds, scores = time.process_time() - began, index.scores
    if CRITERIA[name].rule == "tolerance":
        return [Choice(name, name, index.depth, index.candidates, scores, seconds)]

    def score_at(block: int) -> float:
        score = scores[block - 1]
        return float("nan") if score is None else score

    scoring = Scoring(score_at, index.blocks, name, index.samples, noise=CRITERIA[name].noise, undefined=index.reason)
    cuts = {alpha: cut_by_share(scoring, alpha) for alpha in SHARES[name]}
    return [Choice(f"{name} {alpha:g}", name, c.depth, c.candidates, scores, seconds) for alpha, c in cuts.items()]
