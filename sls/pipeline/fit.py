"""From labelled images to a task's folder: tune, score, cut, tune again, certify; or score first, and tune once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

from sls.adapters.model import Tuned, trunk
from sls.adapters.task_folder import read_folder, write_card, write_folder
from sls.choose_depth import ScoreConfig, depth_from_features
from sls.data.dataset import Dataset
from sls.evaluation import (
    TrainFeatures,
    accuracy_of,
    depth_accuracies,
    keep_adapted,
    raised_cut,
    ridge_curve,
    train_features,
)
from sls.pipeline.git_commit import current_commit
from sls.pipeline.retune import MODES, CutModel, TrainingContext, untrained
from sls.pipeline.run_log import Log
from sls.pipeline.stages import Stages
from sls.progress import Progress, ProgressCallback, ignore_progress
from sls.training.recipe import TrainingConfig
from store.errors import InvalidSettingError
from store.records.evidence import Accuracy, Certificate, Lineage, PruneIndex, Validation
from store.records.manifest import Card
from store.weights.backbones import Backbone
from store.weights.preprocessing import make_transform

LIBRARIES = ("numpy", "peft", "scikit-learn", "timm", "torch")
WHEN = ("after", "before")


@dataclass(frozen=True)
class FitConfig:
    """How a task is tuned, scored, cut, and tuned again.

    `when`: "after" tunes at full depth, scores, cuts and retunes, in the paper's order. "before" scores the
    frozen backbone and tunes at that depth from the start, once: `retune` and `retune_mode` are not used.

    `max_drop` is the bound, in points of validation accuracy below the model tuned at full depth, that the
    cut is held to: it is raised_cut up until it keeps it. With "before" that takes a full-depth model after
    all, which is then tuned as the reference, and the training that "before" would save is spent.

    `retune` trains with the method, the rank, the scale and the first adapted block of `tune`.
    """

    tune: TrainingConfig = field(default_factory=TrainingConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    retune: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=5))
    when: str = "after"
    retune_mode: str = "rewind"
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.when not in WHEN:
            raise InvalidSettingError(f"when {self.when!r} is unknown: choose one of {', '.join(WHEN)}")
        if self.retune_mode not in MODES:
            raise InvalidSettingError(f"retuning {self.retune_mode!r} is unknown: choose one of {', '.join(MODES)}")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise InvalidSettingError(f"max_drop {self.max_drop}: give points of accuracy, 0..100")

    @property
    def effective(self) -> FitConfig:
        """What the run does, as its lineage says it."""
        tune, mode = self.tune, "none" if self.when == "before" else self.retune_mode
        retune = replace(self.retune, method=tune.method, rank=tune.rank, from_block=tune.from_block, scale=tune.scale)
        return replace(self, retune=retune, retune_mode=mode)


@dataclass(frozen=True)
class FitResult:
    """What was decided and measured, and the folders that hold it: `full` at every block, `cut` at the depth.

    `accuracies[i]` is the test accuracy of the model tuned at full depth when it is cut to depth i + 1. With `when`
    "before" and no `max_drop` none was tuned there: `full` is None and, unless all blocks are kept, so is
    `certificate.full`, and `accuracies` is empty, as what the cut costs is not known. `seconds` and `curve` leave out
    what an earlier run, which was interrupted, had done.
    """

    index: PruneIndex
    certificate: Certificate
    full: Path | None
    cut: Path
    accuracies: tuple[Accuracy, ...]
    curve: tuple[Progress, ...]
    seconds: Mapping[str, float]


def fit(
    dataset: Dataset,
    backbone: Backbone,
    *,
    out: Path,
    config: FitConfig = FitConfig(),
    progress: ProgressCallback = ignore_progress,
) -> FitResult:
    """Fit a task and write `out/full` and `out/cut`; the test part is measured on, and nothing is chosen by it.

    A fit that is interrupted leaves what it has done in `out/unfinished`; the same fit into the same folder goes on
    from there, to the same bytes. Raises `InvalidSettingError` where `max_drop` has no validation images to hold to,
    or the adapters would begin above the last block, `DataError` for patience without validation images.
    """
    if config.max_drop is not None and not len(dataset.validation):
        raise InvalidSettingError(
            f"max_drop {config.max_drop:g} is held to validation images, and {dataset.name} has none: "
            "give a validation part, or leave the bound out"
        )
    if config.tune.from_block > backbone.record.blocks:
        raise InvalidSettingError(
            f"adapters from block {config.tune.from_block}: {backbone.record.name} has {backbone.record.blocks}; "
            f"choose 1..{backbone.record.blocks}"
        )
    return _Fit(dataset, backbone, config.effective, out, Log(progress)).run()


class _Fit:
    """One run: what it is given, what it has finished, and the steps."""

    def __init__(self, task: Dataset, backbone: Backbone, settings: FitConfig, out: Path, log: Log) -> None:
        self.task, self.backbone, self.settings, self.out, self.log = task, backbone, settings, out, log
        self.blocks = backbone.record.blocks
        self.bench = TrainingContext(task, backbone, make_transform(backbone.record.id.preprocessing), log)
        self.lineage = Lineage(
            data=task.name,
            data_digest=task.digest,
            train_samples=len(task.train),
            test_samples=len(task.test),
            recipe=asdict(settings),
            versions={name: version(name) for name in LIBRARIES},
            code_commit=current_commit(),
        )
        rows = [(part.digests, part.labels.tolist()) for part in (task.train, task.validation, task.test)]
        made_of = {"backbone": backbone.record.id.fingerprint, "lineage": asdict(self.lineage), "rows": rows}
        self.stages = Stages(out, made_of)

    def run(self) -> FitResult:
        full = self._tune_full("tune") if self.settings.when == "after" else None
        with self.log.timed("score"):
            vit, features = self._look(full)
            index = keep_adapted(self.stages.index(lambda: self._score(features)), self.settings.tune.from_block)
        if full is None and self.settings.max_drop is not None:
            full = self._tune_full("reference")
        with self.log.timed("retune" if self.settings.when == "after" else "tune"):
            index, validation = self._settle(index, full, features)
        with self.log.timed("measure"):
            known = full is not None or index.depth == self.blocks
            accuracies = self._along(self.out / ("full" if full is not None else "cut")) if known else ()
            test = accuracies[-1] if index.depth == self.blocks else self._measure(index.depth)
            curve = ridge_curve(vit, features, self.task.validation, self.bench.transform)
        before = accuracies[index.depth - 1] if self.settings.when == "after" else None
        whole = accuracies[-1] if known else None
        certificate = Certificate(whole, test, before, validation, self.settings.max_drop, curve)
        return self._finish(index, certificate, accuracies, full)

    def _tune_full(self, stage: str) -> Tuned:
        with self.log.timed(stage):
            full = self._tune(self.blocks, stage, self.stages.checkpoint("full"))
            write_folder(self.out / "full", self.backbone, full, self.task.classes)
        return full

    def _tune(self, depth: int, stage: str, checkpoint: Path) -> Tuned:
        start = untrained(self.task, self.backbone, self.settings.tune, depth)
        return self.bench.tune(start, self.settings.tune, stage=stage, checkpoint=checkpoint)

    def _look(self, full: Tuned | None) -> tuple[VisionTransformer, TrainFeatures]:
        """Return the blocks that are scored, tuned or frozen, and what they give for the training images."""
        frozen = full is None
        vit = trunk(self.backbone, self.blocks).eval() if frozen else read_folder(self.out / "full", self.backbone).vit
        return vit, train_features(vit, self.task, self.bench.transform, samples=self.settings.score.samples)

    def _score(self, features: TrainFeatures) -> PruneIndex:
        return depth_from_features(features.scored, features.scored_labels, self.settings.score, report=self.log)

    def _settle(
        self, index: PruneIndex, full: Tuned | None, features: TrainFeatures
    ) -> tuple[PruneIndex, Validation | None]:
        """Leave the cut in `out/cut`: at the depth of the index, or as far above it as `max_drop` asks for."""
        bound, held_out = self.settings.max_drop, self.task.validation
        reference = None
        if full is not None and len(held_out):
            reference = accuracy_of(read_folder(self.out / "full", self.backbone), held_out, self.bench.transform)
        first: float | None = None
        for depth in range(index.depth, self.blocks + 1):
            write_folder(self.out / "cut", self.backbone, self._cut(depth, full, features), self.task.classes)
            if reference is None:
                return index, None
            model = read_folder(self.out / "cut", self.backbone, depth=depth)
            validation = Validation(reference, accuracy_of(model, held_out, self.bench.transform))
            first = validation.drop if first is None else first
            if bound is None or validation.keeps(bound):
                break
        assert first is not None
        if bound is not None and depth > index.depth:
            index = raised_cut(index, depth, first, bound)
        return index, validation

    def _cut(self, depth: int, full: Tuned | None, features: TrainFeatures) -> Tuned:
        """Return the task at the depth, tuned as the settings say; at full depth there is nothing to tune again."""
        if full is not None and depth == self.blocks:
            return full
        checkpoint = self.stages.checkpoint(f"cut-{depth}")
        if full is None or self.settings.when == "before":
            return self._tune(depth, "tune", checkpoint)
        cut = CutModel(full, depth, self.settings.retune, features, self.bench)
        return MODES[self.settings.retune_mode](cut, checkpoint)

    def _measure(self, depth: int) -> Accuracy:
        model = read_folder(self.out / "cut", self.backbone, depth=depth)
        return accuracy_of(model, self.task.test, self.bench.transform)

    def _along(self, folder: Path) -> tuple[Accuracy, ...]:
        return depth_accuracies(read_folder(folder, self.backbone), self.task.test, self.bench.transform)

    def _finish(
        self,
        index: PruneIndex,
        certificate: Certificate,
        accuracies: tuple[Accuracy, ...],
        full: Tuned | None,
    ) -> FitResult:
        fingerprint = self.backbone.record.id.fingerprint
        write_card(self.out / "cut", Card(fingerprint, index, certificate, self.lineage))
        if full is not None:
            assert certificate.full is not None
            whole = PruneIndex(depth=index.blocks, blocks=index.blocks, criterion="none")
            uncut = Certificate(full=certificate.full, cut=certificate.full)
            write_card(self.out / "full", Card(fingerprint, whole, uncut, self.lineage))
        self.stages.clear()
        where = None if full is None else self.out / "full"
        curve, seconds = tuple(self.log.curve), dict(self.log.seconds)
        return FitResult(index, certificate, where, self.out / "cut", accuracies, curve, seconds)
