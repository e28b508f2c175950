"""From a dataset to a task's folder: tune, score, cut, retune and certify; or score first and tune once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from sls.adapters.methods import build_adapted
from sls.adapters.model import TunedModel, build_vit
from sls.adapters.task_folder import DTYPES, read_folder, write_card, write_folder
from sls.choose_depth import depth_from_features
from sls.data.dataset import Dataset, Split
from sls.evaluation import (
    TrainFeatures,
    accuracy_of,
    depth_accuracies,
    keep_adapted,
    raised_cut,
    ridge_curve,
    train_features,
)
from sls.pipeline.certify import Cut, certify
from sls.pipeline.config import FitConfig
from sls.pipeline.git_commit import current_commit
from sls.pipeline.preflight import check_run, check_stages
from sls.pipeline.retune import MODES, CutModel, TrainingContext, truncated, untrained
from sls.pipeline.run_log import RunLog
from sls.pipeline.stages import Stages
from sls.pipeline.width_fit import WidthFit, budget_points, prune_within, search
from sls.progress import Progress, ProgressCallback, ignore_progress
from sls.scoring.calibration import Logits
from sls.training.feature_cache import FeatureCache
from sls.width.search import WidthConfig
from sls.width.trial import WidthPoint
from store.records.evidence import Accuracy, Certificate, Lineage, PruneIndex, Validation
from store.records.manifest import Card
from store.records.width import WidthIndex
from store.weights.backbones import Backbone
from store.weights.preprocessing import make_transform
from store.weights.supported import TimmModel

DEFAULT = FitConfig()
LIBRARIES = ("numpy", "peft", "scikit-learn", "timm", "torch")


@dataclass(frozen=True)
class FitResult:
    """The prune index, the certificate, and the folders: `full` with all blocks, `cut` at the chosen depth.

    `accuracies[i]` is the test accuracy of the model tuned at full depth when it is cut to depth i + 1, None in the
    stages of a Swin that have fewer features than its head takes. Without
    `max_drop`, and with `when` "before" or "early", no model is tuned at full depth: `full` is None, and unless all
    blocks are kept, `certificate.full` is None and `accuracies` is empty, as the cost of the cut is unknown. `logits`
    are the test images' at the cut, (n, classes). `seconds` and `curve` do not include the steps of an earlier run that
    was interrupted.
    """

    index: PruneIndex
    certificate: Certificate
    full: Path | None
    cut: Path
    accuracies: tuple[Accuracy | None, ...]
    curve: tuple[Progress, ...]
    seconds: Mapping[str, float]
    logits: Logits


def fit(
    dataset: Dataset,
    backbone: Backbone,
    *,
    out: str | Path,
    config: FitConfig = DEFAULT,
    progress: ProgressCallback = ignore_progress,
    cache: FeatureCache | None = None,
) -> FitResult:
    """Fit a task and write `out/full` and `out/cut`. The test split measures accuracy; nothing is chosen by it.

    An interrupted fit leaves its finished steps in `out/unfinished`; the same fit into the same folder resumes there
    and ends with the same bytes. `cache` shares what frozen blocks make of images with other fits. Before anything is
    trained it raises `InvalidSettingError` for `max_drop` without validation images, adapters that begin above the
    last block, or an `out` that cannot be written; `DataError` for patience without validation images; `StorageError`
    where the disk has too little room.
    """
    check_stages(config, backbone)
    check_run(dataset, backbone, config.tune, max_drop=config.max_drop, out=Path(out))
    return _Fit(dataset, backbone, config.effective, Path(out), RunLog(progress), cache).run()


@dataclass(frozen=True)
class Begun:
    """What was tuned at full depth before the cut: all epochs, or the first one; None where it was not."""

    full: TunedModel | None
    first: TunedModel | None


def fit_budgets(
    dataset: Dataset,
    backbone: Backbone,
    budgets: Sequence[float],
    *,
    out: str | Path,
    config: FitConfig,
    progress: ProgressCallback = ignore_progress,
) -> tuple[Accuracy | None, tuple[WidthPoint, ...]]:
    """Tune once, search the width once, prune to each budget and tune again there; `out/cut` is not written.

    Returns the validation accuracies: at full width, and with a point for each budget.
    """
    check_stages(config, backbone)
    check_run(dataset, backbone, config.tune, max_drop=config.max_drop, out=Path(out))
    return _Fit(dataset, backbone, config.effective, Path(out), RunLog(progress), None).width_points(budgets)


class _Fit:
    """One run of a fit: its arguments, its finished steps in `stages`, and its steps as methods."""

    def __init__(
        self,
        dataset: Dataset,
        backbone: Backbone,
        config: FitConfig,
        out: Path,
        log: RunLog,
        cache: FeatureCache | None,
    ) -> None:
        self.dataset, self.backbone, self.config, self.out, self.log = dataset, backbone, config, out, log
        self.blocks = backbone.record.blocks
        self.context = TrainingContext(dataset, backbone, make_transform(backbone.record.id.preprocessing), log, cache)
        self.lineage = Lineage(
            data=dataset.name,
            data_digest=dataset.digest,
            train_samples=len(dataset.train),
            test_samples=len(dataset.test),
            recipe=asdict(config),
            versions={name: version(name) for name in LIBRARIES},
            code_commit=current_commit(),
        )
        rows = [(split.digests, split.labels.tolist()) for split in (dataset.train, dataset.validation, dataset.test)]
        inputs = {"backbone": backbone.record.id.fingerprint, "lineage": asdict(self.lineage), "rows": rows}
        self.stages = Stages(out, inputs)

    def run(self) -> FitResult:
        if self.config.width is not None:
            return self._run_width(self.config.width)
        full = self._tune_full("tune") if self.config.when == "after" else None
        first = self._tune_first() if self.config.when == "early" else None
        with self.log.timed("score"):
            vit, features = self._block_features(full, first)
            index = keep_adapted(self.stages.index(lambda: self._score(features)), self.config.tune.from_block)
        if full is None and self.config.max_drop is not None:
            full = self._tune_full("reference")
        with self.log.timed("retune" if self.config.when == "after" else "tune"):
            cut = self._train_cut(index, Begun(full, first), features)
        with self.log.timed("measure"):
            known = full is not None or cut.index.depth == self.blocks
            accuracies = self._depth_accuracies(self.out / ("full" if full is not None else "cut")) if known else ()
            curve = ridge_curve(vit, features, self.dataset.validation, self.context.transform)
            model = read_folder(self.out / "cut", self.backbone, depth=cut.index.depth)
            logits, certificate = certify(model, cut, self.context, self.config, accuracies, curve)
        return self._finish(cut.index, certificate, accuracies, full, logits)

    def _write(self, name: str, tuned: TunedModel, width: WidthIndex | None = None) -> None:
        dtype = DTYPES[self.config.save_dtype]
        write_folder(self.out / name, self.backbone.narrow(width), tuned, self.dataset.classes, dtype=dtype)

    def _tune_first(self) -> TunedModel:
        with self.log.timed("begin"):
            start = untrained(self.dataset, self.backbone, self.config.first)
            return self.context.tune(
                start, self.config.first, stage="begin", checkpoint=self.stages.checkpoint("first")
            )

    def _run_width(self, width: WidthConfig) -> FitResult:
        full, held_out, bound = self._tune_full("tune"), self.dataset.validation, self.config.max_drop
        run = self.width_fit(full, width)
        with self.log.timed("search"):
            importance = search(run)
        reference = self._full_accuracy(held_out) if len(held_out) else None
        with self.log.timed("retune"):
            made = prune_within(run, importance, reference, bound)
            self._write("cut", made.tuned, made.index.width)
        validation = None if reference is None or made.validation is None else Validation(reference, made.validation)
        with self.log.timed("measure"):
            accuracies = self._depth_accuracies(self.out / "full")
            narrow = self.backbone.narrow(made.index.width, made.index.tokens)
            context = replace(self.context, backbone=narrow)
            model = read_folder(self.out / "cut", context.backbone, depth=made.index.depth)
            cut = Cut(made.index, validation, made.tuned)
            logits, certificate = certify(model, cut, context, self.config, accuracies, ())
        return self._finish(made.index, replace(certificate, cut_before_retune=made.before), accuracies, full, logits)

    def width_fit(self, full: TunedModel, width: WidthConfig) -> WidthFit:
        config = self.config
        return WidthFit(
            self.context, full, config.tune, config.retune, config.retune_mode, width, self.stages.checkpoint
        )

    def width_points(self, budgets: Sequence[float]) -> tuple[Accuracy | None, tuple[WidthPoint, ...]]:
        assert self.config.width is not None
        run = self.width_fit(self._tune_full("tune"), self.config.width)
        points = budget_points(run, search(run), budgets)
        self.stages.clear()
        return self._full_accuracy(self.dataset.validation) if len(self.dataset.validation) else None, points

    def _full_accuracy(self, split: Split) -> Accuracy:
        return accuracy_of(read_folder(self.out / "full", self.backbone), split, self.context.transform)

    def _tune_full(self, stage: str) -> TunedModel:
        with self.log.timed(stage):
            full = self._tune(self.blocks, stage, self.stages.checkpoint("full"))
            self._write("full", full)
        return full

    def _tune(self, depth: int, stage: str, checkpoint: Path) -> TunedModel:
        start = untrained(self.dataset, self.backbone, self.config.tune, depth)
        return self.context.tune(start, self.config.tune, stage=stage, checkpoint=checkpoint)

    def _block_features(self, full: TunedModel | None, first: TunedModel | None) -> tuple[TimmModel, TrainFeatures]:
        """Return the model that is scored, a tuned one or the frozen backbone, and its training features."""
        if full is not None:
            vit = read_folder(self.out / "full", self.backbone).vit
        elif first is not None:
            vit = build_adapted(self.backbone, first).vit
        else:
            vit = build_vit(self.backbone, self.blocks).eval()
        return vit, train_features(vit, self.dataset, self.context.transform, samples=self.config.score.samples)

    def _score(self, features: TrainFeatures) -> PruneIndex:
        return depth_from_features(features.scored, features.scored_labels, self.config.score, progress=self.log)

    def _train_cut(self, index: PruneIndex, begun: Begun, features: TrainFeatures) -> Cut:
        """Write `out/cut` at the depth of the index, or at the first depth above it that keeps to `max_drop`."""
        bound, held_out = self.config.max_drop, self.dataset.validation
        reference = None
        if begun.full is not None and len(held_out):
            reference = self._full_accuracy(held_out)
        first: float | None = None
        for depth in range(index.depth, self.blocks + 1):
            tuned = self._train_at(depth, begun, features)
            self._write("cut", tuned)
            if reference is None:
                return Cut(index, None, tuned)
            model = read_folder(self.out / "cut", self.backbone, depth=depth)
            validation = Validation(reference, accuracy_of(model, held_out, self.context.transform))
            first = validation.drop if first is None else first
            if bound is None or validation.keeps(bound):
                break
        assert first is not None
        if bound is not None and depth > index.depth:
            index = raised_cut(index, depth, first, bound)
        return Cut(index, validation, tuned)

    def _train_at(self, depth: int, begun: Begun, features: TrainFeatures) -> TunedModel:
        """Return the model of the depth, trained as the config says; at full depth it is `full`, if there is one."""
        if begun.full is not None and depth == self.blocks:
            return begun.full
        checkpoint = self.stages.checkpoint(f"cut-{depth}")
        if begun.first is not None:
            start = truncated(begun.first, depth, self.backbone.record)
            return self.context.tune(start, self.config.rest, stage="tune", checkpoint=checkpoint)
        if begun.full is None or self.config.when == "before":
            return self._tune(depth, "tune", checkpoint)
        cut = CutModel(begun.full, depth, self.config.retune, features, self.context)
        return MODES[self.config.retune_mode](cut, checkpoint)

    def _depth_accuracies(self, folder: Path) -> tuple[Accuracy | None, ...]:
        return depth_accuracies(read_folder(folder, self.backbone), self.dataset.test, self.context.transform)

    def _finish(
        self,
        index: PruneIndex,
        certificate: Certificate,
        accuracies: tuple[Accuracy | None, ...],
        full: TunedModel | None,
        logits: Logits,
    ) -> FitResult:
        fingerprint = self.backbone.record.id.fingerprint
        write_card(self.out / "cut", Card(fingerprint, index, certificate, self.lineage))
        if full is not None:
            assert certificate.full is not None
            uncut = PruneIndex(depth=index.blocks, blocks=index.blocks, criterion="none")
            same = Certificate(full=certificate.full, cut=certificate.full)
            write_card(self.out / "full", Card(fingerprint, uncut, same, self.lineage))
        self.stages.clear()
        folder = None if full is None else self.out / "full"
        curve, seconds = tuple(self.log.curve), dict(self.log.seconds)
        return FitResult(index, certificate, folder, self.out / "cut", accuracies, curve, seconds, logits)
