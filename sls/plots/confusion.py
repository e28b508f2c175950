"""Which classes are taken for which: the confusion matrix as a picture, and the metrics of each class as a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sls.plots.style import save, shorten
from store.records.measures import ClassCounts

NAMED, WRITTEN = 40, 15
"""The greatest numbers of classes whose names, and whose counts, are written into the picture."""


def draw_confusion(confusion: npt.NDArray[np.int64], classes: Sequence[str], stem: str | Path) -> Path:
    """Draw `stem`.svg and `stem`.png and return the first; a row is a class, its colours are shares of its images."""
    count = len(classes)
    side = min(12.0, 2.4 + 0.32 * min(count, NAMED))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's images")
    axes.set_xlabel("answered", fontsize="small")
    axes.set_ylabel("class", fontsize="small")
    if count <= NAMED:
        names = [shorten(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=90, fontsize="x-small", parse_math=False)
        axes.set_yticks(range(count), names, fontsize="x-small", parse_math=False)
    if count <= WRITTEN:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            ink = "white" if shares[row, column] > 0.5 else "black"
            number = str(confusion[row, column])
            axes.text(column, row, number, ha="center", va="center", color=ink, fontsize="x-small")
    return save(figure, stem)


def write_classes(counts: ClassCounts, classes: Sequence[str], path: str | Path) -> Path:
    """Write a CSV with the images, answers, precision, recall and F1 of every class."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = (counts.images, counts.answered, counts.correct, counts.precision, counts.recall, counts.f1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "images", "answered", "correct", "precision", "recall", "f1"))
        for name, *values in zip(classes, *columns, strict=True):
            writer.writerow((name, *(f"{value:.4f}" if isinstance(value, float) else value for value in values)))
    return path
