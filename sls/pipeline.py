"""From labelled images to a task's folder: tune at full depth, score from the top, cut, tune again, certify."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch

from sls.adapted import Tuned, block_of
from sls.commit import current_commit
from sls.features import BlockFeatures, block_features
from sls.folder import read_folder, write_card, write_folder
from sls.prune import ScoreSettings, score_blocks
from sls.task import ImageTask
from sls.tune import Progress, Recipe, Report, tune
from store.backbones import Backbone
from store.evidence import Accuracy, Certificate, Lineage, PruneIndex
from store.images import make_transform
from store.records import Card

LIBRARIES = ("numpy", "peft", "scikit-learn", "timm", "torch")


@dataclass(frozen=True)
class FitSettings:
    """How a task is tuned at full depth, scored, and tuned again at the cut."""

    tune: Recipe = field(default_factory=Recipe)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    retune: Recipe = field(default_factory=lambda: Recipe(epochs=5))


@dataclass(frozen=True)
class FitResult:
    """What was decided and measured, and the folders that hold it: `full` at every block, `cut` at the depth.

    `accuracies[i]` is the test accuracy of the model tuned at full depth when it is cut to depth i + 1.
    """

    index: PruneIndex
    certificate: Certificate
    full: Path
    cut: Path
    accuracies: tuple[Accuracy, ...]
    curve: tuple[Progress, ...]
    seconds: Mapping[str, float]


def fit(task: ImageTask, backbone: Backbone, settings: FitSettings, out: Path, report: Report) -> FitResult:
    """Fit a task and write `out/full` and `out/cut`; the test part is measured on, and nothing is chosen by it."""
    log = _Log(report)
    transform = make_transform(backbone.record.id.preprocessing)
    with log.timed("tune"):
        start = blank(task, backbone, settings.tune)
        full = tune(task, backbone, start, settings.tune, transform=transform, stage="tune", report=log)
        write_folder(out / "full", backbone, full, task.classes)
    model = read_folder(out / "full", backbone)
    with log.timed("score"):
        index = score_blocks(model, task, settings.score, transform=transform, report=log)
    with log.timed("retune"):
        final = full
        if index.depth < full.depth:
            start = truncated(full, index.depth)
            final = tune(task, backbone, start, settings.retune, transform=transform, stage="retune", report=log)
        write_folder(out / "cut", backbone, final, task.classes)
    with log.timed("measure"):
        accuracies = depth_accuracies(block_features(model.vit, task.test, transform), full, task)
        served = accuracies
        if index.depth < full.depth:
            short = read_folder(out / "cut", backbone, depth=index.depth)
            served = depth_accuracies(block_features(short.vit, task.test, transform), final, task)
    certificate = Certificate(full=accuracies[-1], cut=served[-1], cut_before_retune=accuracies[index.depth - 1])
    _write_cards(out, task, backbone, settings, index, certificate)
    return FitResult(index, certificate, out / "full", out / "cut", accuracies, tuple(log.curve), dict(log.seconds))


def score_folder(
    folder: Path, task: ImageTask, backbone: Backbone, settings: ScoreSettings, report: Report
) -> PruneIndex:
    """Decide the depth of a task that is tuned already; its folder stays as it is."""
    transform = make_transform(backbone.record.id.preprocessing)
    return score_blocks(read_folder(folder, backbone), task, settings, transform=transform, report=report)


def truncated(tuned: Tuned, depth: int) -> Tuned:
    """Keep the adapter of blocks 1..depth, and the head."""
    kept = {key: value for key, value in tuned.adapter.items() if block_of(key) <= depth}
    return replace(tuned, depth=depth, adapter=kept)


def depth_accuracies(features: BlockFeatures, tuned: Tuned, task: ImageTask) -> tuple[Accuracy, ...]:
    """Accuracy on the test part at depth 1, 2, ... with the head as it is."""
    logits = torch.from_numpy(features.served) @ tuned.weight.T + tuned.bias
    correct = (logits.argmax(dim=2).numpy() == task.test.labels).sum(axis=1)
    return tuple(Accuracy(int(count), len(task.test)) for count in correct)


def blank(task: ImageTask, backbone: Backbone, recipe: Recipe) -> Tuned:
    """Start from fresh adapters and a head of zeros, at full depth."""
    classes, record = len(task.classes), backbone.record
    return Tuned(record.blocks, recipe.rank, {}, torch.zeros(classes, record.dim), torch.zeros(classes))


def _write_cards(
    out: Path, task: ImageTask, backbone: Backbone, settings: FitSettings, index: PruneIndex, certificate: Certificate
) -> None:
    lineage = Lineage(
        data=task.name,
        data_digest=task.digest,
        train_samples=len(task.train),
        test_samples=len(task.test),
        recipe=asdict(settings),
        versions={name: version(name) for name in LIBRARIES},
        code_commit=current_commit(),
    )
    fingerprint = backbone.record.id.fingerprint
    write_card(out / "cut", Card(fingerprint, index, certificate, lineage))
    whole = PruneIndex(depth=index.blocks, blocks=index.blocks, criterion="none")
    uncut = Certificate(full=certificate.full, cut=certificate.full)
    write_card(out / "full", Card(fingerprint, whole, uncut, lineage))


class _Log:
    """Pass progress on, and keep it with the seconds of each stage."""

    def __init__(self, report: Report) -> None:
        self.report, self.curve, self.seconds = report, list[Progress](), dict[str, float]()

    def __call__(self, progress: Progress) -> None:
        self.curve.append(progress)
        self.report(progress)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - began
