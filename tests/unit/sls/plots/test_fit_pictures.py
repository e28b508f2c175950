"""The pictures of a fit: drawn from odd input, and the table of the classes as it is counted."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from support.toy_datasets import haze

from sls.evaluation import confusion_of, counts_of
from sls.plots.confusion import NAMED, WRITTEN, draw_confusion, write_classes
from sls.plots.learning_curves import draw_curves
from sls.plots.reliability import draw_reliability
from sls.plots.worst_images import COLUMNS, ROWS, draw_worst
from sls.progress import Progress
from store.records.measures import Calibration

EPOCHS = [
    Progress("tune", 1, 2, 0.0, loss=1.5, accuracy=0.4),
    Progress("score", 1, 1, 0.0, score=0.3),
    Progress("tune", 2, 2, 0.0, loss=1.0, accuracy=None),
    Progress("retune", 1, 1, 0.0, loss=0.5, accuracy=0.6),
]


def logits(count: int = 30, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (count, classes)).astype(np.float32)


def test_a_curve_has_a_line_for_each_stage_that_trains(tmp_path):
    text = draw_curves(EPOCHS, tmp_path / "curves").read_text()
    assert "retune" in text
    assert "score" not in text
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_curve_without_epochs_is_drawn(tmp_path):
    assert draw_curves((), tmp_path / "curves").is_file()


@pytest.mark.parametrize("classes", [2, WRITTEN + 1, NAMED + 1])
def test_a_confusion_matrix_names_classes_while_there_is_room(tmp_path, classes):
    found = np.diag(np.arange(classes))
    names = [f"$n_{number}$" for number in range(classes)]
    text = draw_confusion(found, names, tmp_path / "confusion").read_text()
    assert ("$n_1$" in text) == (classes <= NAMED)


def test_the_table_has_a_row_for_each_class_with_its_counts(tmp_path):
    task = haze()
    counts = counts_of(confusion_of(logits(), task.test.labels))
    with write_classes(counts, task.classes, tmp_path / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(task.classes)
    assert [int(row["correct"]) for row in rows] == list(counts.correct)
    assert [float(row["recall"]) for row in rows] == [round(share, 4) for share in counts.recall]


def test_the_worst_image_is_that_of_the_greatest_loss(tmp_path):
    task, given = haze(), logits()
    given[7] = np.where(np.arange(3) == task.test.labels[7], -9, 9)
    text = draw_worst(given, task.test, ("red", "green", "blue"), tmp_path / "worst").read_text()
    scores = [line.split()[-2] for line in text.splitlines() if line.strip().startswith("<!--") and "%" in line]
    assert len(scores) == COLUMNS * ROWS
    assert scores[0] == "50%"


def test_a_reliability_picture_says_both_errors(tmp_path):
    text = draw_reliability(
        logits(), haze().test.labels, Calibration(2.5, 9, 0.3, 0.1), tmp_path / "calibration"
    ).read_text()
    assert "as served: error 30.0%" in text
    assert "at temperature 2.5: error 10.0%" in text
