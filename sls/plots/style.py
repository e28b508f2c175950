"""Colours and markers that colour-blind readers can tell apart, and how a picture is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#666666"
CUT, FADED = ORANGE, "#8a8a8a"
INKS = (BLUE, "#e69f00", GREEN, "#cc79a7", "#56b4e9", ORANGE, "black", "#b8a500")
"""The palette of Okabe and Ito, with a darker yellow that is visible on white."""
Mark = str | tuple[int, Literal[0, 1, 2], int]
THIN: tuple[Mark, ...] = ("x", "+", "1", "2", "3", "4", "|", "_", (5, 2, 0), (8, 2, 0))
MARKS: tuple[Mark, ...] = ("o", "^", "s", "X", "v", "D", "P", "*", "<", ">", "p", "h", "d", "8", "H", *THIN)
LONGEST = 24


def shorten(name: str) -> str:
    """Return the name on one line of at most 24 characters: its beginning and its end."""
    line = " ".join(name.split())
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]}…{line[1 - half :]}"


def save(figure: Figure, stem: str | Path) -> Path:
    """Write `stem`.svg and `stem`.png and return the first; equal pictures give equal SVG bytes."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    svg = stem.with_name(stem.name + ".svg")
    with matplotlib.rc_context({"svg.hashsalt": stem.name}):
        figure.savefig(svg, metadata={"Date": None})
    figure.savefig(stem.with_name(stem.name + ".png"), dpi=144)
    return svg
