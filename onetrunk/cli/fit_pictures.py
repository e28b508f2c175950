"""The pictures of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onetrunk.cli.output import log_to_stderr
from onetrunk.cli.width_output import draw_index

if TYPE_CHECKING:
    from sls.data.dataset import Dataset
    from sls.pipeline.fit import FitResult


def draw_fit(task: str, result: FitResult, dataset: Dataset, folder: Path) -> None:
    """Draw the depths, the epochs and what the task does with the test images; a table has the classes."""
    from sls.evaluation import confusion_of, counts_of
    from sls.plots.confusion import draw_confusion, write_classes
    from sls.plots.depth_plot import draw_depths
    from sls.plots.learning_curves import draw_curves
    from sls.plots.reliability import draw_reliability
    from sls.plots.worst_images import draw_worst

    certificates, accuracies = {task: result.certificate}, {task: result.accuracies}
    test, classes, calibration = dataset.test, dataset.classes, result.certificate.calibration
    confusion = confusion_of(result.logits, test.labels)
    pictures = [
        draw_depths({task: result.index}, folder / "depths", certificates=certificates, accuracies=accuracies),
        draw_curves(result.curve, folder / "curves"),
        draw_confusion(confusion, classes, folder / "confusion"),
        draw_worst(result.logits, test, classes, folder / "worst"),
    ]
    if calibration is not None:
        pictures.append(draw_reliability(result.logits, test.labels, calibration, folder / "calibration"))
    for picture in pictures:
        log_to_stderr(f"picture: {picture}")
    draw_index(task, result.index, folder)
    log_to_stderr(f"table of the classes: {write_classes(counts_of(confusion), classes, folder / 'classes.csv')}")
