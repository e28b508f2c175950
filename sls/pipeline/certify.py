"""Measure the cut task, as it is stored, on the held-out images."""

from __future__ import annotations

from dataclasses import dataclass

from sls.adapters.methods import build_adapted
from sls.adapters.model import AdaptedModel, TunedModel
from sls.evaluation import accuracy_from, accuracy_of, calibration_of, certified_counts, confusion_of, logits_of
from sls.pipeline.config import FitConfig
from sls.pipeline.retune import TrainingContext
from sls.scoring.calibration import Logits
from store.records.evidence import Accuracy, Certificate, PruneIndex, Rounding, Validation


@dataclass(frozen=True)
class Cut:
    """The prune index, what the validation images say, and the model at that depth as it was trained."""

    index: PruneIndex
    validation: Validation | None
    tuned: TunedModel


def certify(
    model: AdaptedModel,
    cut: Cut,
    context: TrainingContext,
    config: FitConfig,
    accuracies: tuple[Accuracy | None, ...],
    curve: tuple[Accuracy, ...],
) -> tuple[Logits, Certificate]:
    """Return the logits of the test images, and what they say; `model` is the cut task as it was read back."""
    held_out, test, transform = context.dataset.validation, context.dataset.test, context.transform
    logits = logits_of(model, test, transform)
    rounding = None
    if config.save_dtype != "float32":
        before = accuracy_of(build_adapted(context.backbone, cut.tuned), test, transform)
        rounding = Rounding(config.save_dtype, before)
    certificate = Certificate(
        full=accuracies[-1] if accuracies else None,
        cut=accuracy_from(logits, test.labels),
        cut_before_retune=accuracies[cut.index.depth - 1] if config.when == "after" else None,
        validation=cut.validation,
        max_drop=config.max_drop,
        curve=curve,
        duplicates=context.dataset.duplicates,
        rounding=rounding,
        class_counts=certified_counts(confusion_of(logits, test.labels)),
        calibration=calibration_of(logits_of(model, held_out, transform), held_out.labels, logits, test.labels),
    )
    return logits, certificate
