"""The test images that a model gets most wrong, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sls.data.dataset import Split
from sls.plots.style import save, shorten
from sls.scoring.calibration import Logits, softmax

COLUMNS, ROWS = 6, 4
SIDE = 160  # pixels of an image on the sheet, at most


def draw_worst(logits: Logits, split: Split, classes: Sequence[str], stem: str | Path) -> Path:
    """Draw `stem`.svg and `stem`.png and return the first; the image of the greatest loss is the first one.

    Above each image are its class, the answer and the answer's score.
    """
    shares = softmax(logits.astype(np.float64))
    own = shares[np.arange(len(split)), split.labels]
    worst = np.argsort(own, kind="stable")[: COLUMNS * ROWS]
    rows = -(-len(worst) // COLUMNS)
    figure = Figure(figsize=(1.7 * COLUMNS, 2.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, row in zip(panels, worst.tolist(), strict=False):
        image = split.image(row)
        image.thumbnail((SIDE, SIDE))
        axes.imshow(np.asarray(image))
        answer = int(logits[row].argmax())
        title = f"{shorten(classes[split.labels[row]])}\n{shorten(classes[answer])} {shares[row, answer]:.0%}"
        axes.set_title(title, fontsize="x-small", parse_math=False)
    return save(figure, stem)
