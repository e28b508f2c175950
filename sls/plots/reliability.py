"""How often answers of each score are right, as they are served and at the fitted temperature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sls.data.dataset import Labels
from sls.plots.style import BLUE, GREY, ORANGE, save
from sls.scoring.calibration import BINS, Logits, bins_of, confidences
from store.records.measures import Calibration


def draw_reliability(logits: Logits, labels: Labels, calibration: Calibration, stem: str | Path) -> Path:
    """Draw `stem`.svg and `stem`.png and return the first; a point's area grows with the number of its images."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), ":", color=GREY)
    served = f"as served: error {calibration.ece:.1%}"
    _points(axes, logits, labels, 1.0, BLUE, served)
    scaled = f"at temperature {calibration.temperature:g}: error {calibration.ece_scaled:.1%}"
    _points(axes, logits, labels, calibration.temperature, ORANGE, scaled)
    axes.set_xlabel("mean score of the answers", fontsize="small")
    axes.set_ylabel("share that is right", fontsize="small")
    axes.tick_params(labelsize="x-small")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(fontsize="small", frameon=False, loc="upper left")
    return save(figure, stem)


def _points(axes: Axes, logits: Logits, labels: Labels, temperature: float, ink: str, label: str) -> None:
    confidence, right = confidences(logits, labels, temperature)
    bins = bins_of(confidence)
    counts = np.bincount(bins, minlength=BINS)
    known = counts > 0
    x, y = (np.bincount(bins, weights=values, minlength=BINS)[known] / counts[known] for values in (confidence, right))
    axes.scatter(x, y, s=10 + 200 * counts[known] / len(labels), color=ink, alpha=0.6, label=label)
    axes.plot(x, y, color=ink, linewidth=1)
