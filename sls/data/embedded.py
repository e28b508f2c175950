"""Seven datasets that need no download: scans from scikit-learn, glyphs in matplotlib's fonts, and geometry."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from sls.data.drawing import SCALE, SIDE, Random, canvas_of, colours, draw_centres, near_centre, polygon, stamp
from store.errors import DataError

PARTS = ("train", "validation", "test")
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Item:
    """What to draw: the `nth` image (from 0) of class `label` in one of `PARTS`."""

    label: int
    part: str
    nth: int


@dataclass(frozen=True)
class EmbeddedDataset:
    """Class names, and how to draw an image."""

    classes: tuple[str, ...]
    draw: Callable[[Random, Item], Image.Image]


def render(name: str, part: str, count: int, *, seed: int = 0) -> tuple[tuple[Pixels, ...], npt.NDArray[np.int64]]:
    """Draw `count` images of a split, the classes in turn; image i does not depend on `count`."""
    if name not in EMBEDDED:
        raise DataError(f"no embedded dataset 'onetrunk/{name}': choose one of {', '.join(EMBEDDED)}")
    dataset = EMBEDDED[name]
    labels = np.arange(count, dtype=np.int64) % len(dataset.classes)
    images = []
    for index, label in enumerate(labels):
        random = np.random.default_rng((seed, *name.encode(), PARTS.index(part), index))
        image = dataset.draw(random, Item(int(label), part, index // len(dataset.classes))).resize(
            (SIDE, SIDE), Image.Resampling.LANCZOS
        )
        noise = random.normal(0, random.uniform(1, 6), (SIDE, SIDE, 3))
        images.append(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    return tuple(images), labels


# ------------------------------------------------------------------------------------------------------------ scans


@cache
def _scans() -> tuple[Pixels, npt.NDArray[np.int64]]:
    bunch = load_digits()
    return (bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)


def _digit(_random: Random, item: Item) -> Image.Image:
    """Enlarge a scan; of every ten scans of a class, five are for training, one for validation, four for the test."""
    images, labels = _scans()
    scans = images[labels == item.label]
    index = np.arange(len(scans)) % 10
    pool = scans[{"train": index < 5, "validation": index == 5, "test": index > 5}[item.part]]
    return Image.fromarray(pool[item.nth % len(pool)]).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")


# ----------------------------------------------------------------------------------------------------------- glyphs

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _write(random: Random, text: str, font: str, size: float, *, tilt: float) -> Image.Image:
    """Write `text` in random colours near the middle, turned by up to `tilt` degrees."""
    face = ImageFont.truetype(FONTS / f"{font}.ttf", int(size * SCALE))
    left, top, right, bottom = face.getbbox(text)
    ink = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4), 0)
    ImageDraw.Draw(ink).text((2 - left, 2 - top), text, fill=255, font=face)
    ink = ink.rotate(random.uniform(-tilt, tilt), Image.Resampling.BICUBIC, expand=True)
    ink.thumbnail((SIDE * SCALE, SIDE * SCALE))
    ground, colour = colours(random, 1)
    canvas = canvas_of(ground)
    stamp(canvas, ink, colour, near_centre(random, ink.size))
    return canvas


LETTER_FONTS = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-Oblique",
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "DejaVuSansMono",
        "cmr10",
        "cmss10",
    ),
    "test": ("STIXGeneral", "STIXGeneralBolIta", "DejaVuSans-Bold", "DejaVuSerif-Italic", "cmtt10", "cmb10"),
}


def _letter(random: Random, item: Item) -> Image.Image:
    """Draw a capital letter; the test split uses fonts that do not occur in training."""
    font = random.choice(LETTER_FONTS["test" if item.part == "test" else "train"])
    return _write(random, string.ascii_uppercase[item.label], font, random.uniform(46, 56), tilt=5)


TYPEFACES = {
    "serif": (
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "DejaVuSerif-Italic",
        "STIXGeneral",
        "STIXGeneralBol",
        "cmr10",
        "cmb10",
    ),
    "sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "cmss10"),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "cmtt10"),
}
SLANTS = {
    "upright": ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "cmr10"),
    "oblique": ("DejaVuSans-Oblique", "DejaVuSerif-Italic", "DejaVuSansMono-Oblique", "STIXGeneralItalic", "cmti10"),
    "bold": ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold", "STIXGeneralBol", "cmb10"),
}
LETTERS = "abdefghkmnopqrstuABDEGHKMNRSTU"


def _word(random: Random) -> str:
    return "".join(random.choice(list(LETTERS), random.integers(2, 4)))


def _of_fonts(fonts: Mapping[str, tuple[str, ...]]) -> EmbeddedDataset:
    kinds = tuple(fonts.values())

    def draw(random: Random, item: Item) -> Image.Image:
        return _write(random, _word(random), random.choice(kinds[item.label]), random.uniform(28, 38), tilt=4)

    return EmbeddedDataset(tuple(fonts), draw)


# --------------------------------------------------------------------------------------------------------- geometry


def _count(random: Random, item: Item) -> Image.Image:
    """Draw as many triangles, squares and discs as the class says, of different colours and sizes."""
    ground, *inks = colours(random, item.label + 1)
    canvas = canvas_of(ground)
    radii = [float(r) * SCALE for r in random.uniform(5, 8, item.label + 1)]
    for centre, radius, ink in zip(draw_centres(random, radii), radii, inks, strict=True):
        corners = int(random.choice((3, 4, 40)))
        polygon(canvas, centre, radius, corners=corners, turn=random.uniform(0, 2 * np.pi), colour=ink)
    return canvas


def _position(random: Random, item: Item) -> Image.Image:
    """Draw a disc in the class's cell of a 3 x 3 grid, and small squares and triangles in two to four of the others."""
    others = [cell for cell in range(9) if cell != item.label]
    ground, *inks = colours(random, 5)
    canvas = canvas_of(ground)
    for cell, ink in zip((item.label, *random.permutation(others)[: random.integers(2, 5)]), inks, strict=False):
        x, y = (np.array((cell % 3, cell // 3)) + 0.5) * SIDE * SCALE / 3 + random.uniform(-3, 3, 2) * SCALE
        corners = 40 if cell == item.label else int(random.choice((3, 4)))
        radius = random.uniform(6, 9) if cell == item.label else random.uniform(4, 6)
        turn = random.uniform(0, 2 * np.pi)
        polygon(canvas, (x, y), radius * SCALE, corners=corners, turn=turn, colour=ink)
    return canvas


def _orientation(random: Random, item: Item) -> Image.Image:
    """Draw an arrow that points within 15 degrees of the class's direction, among a few small discs."""
    ground, ink, *others = colours(random, 5)
    canvas = canvas_of(ground)
    length = random.uniform(10, 22) * SCALE
    (x, y), *dots = draw_centres(random, [length, *(random.uniform(2, 4, 4) * SCALE)])
    angle = item.label * np.pi / 4 + random.uniform(-1, 1) * np.pi / 12
    forward, side = np.array((np.cos(angle), -np.sin(angle))), np.array((np.sin(angle), np.cos(angle)))
    wide, thin = random.uniform(0.35, 0.6), random.uniform(0.08, 0.2)
    outline = ((1, 0), (0.1, wide), (0.1, thin), (-1, thin), (-1, -thin), (0.1, -thin), (0.1, -wide))
    points = [tuple(np.array((x, y)) + length * (along * forward + across * side)) for along, across in outline]
    ImageDraw.Draw(canvas).polygon(points, fill=ink)
    for centre, colour in zip(dots, others, strict=False):
        polygon(canvas, centre, 3 * SCALE, corners=40, turn=0.0, colour=colour)
    return canvas


EIGHT = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")
NINE = tuple(f"{row}-{column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))

EMBEDDED: Mapping[str, EmbeddedDataset] = MappingProxyType(
    {
        "digits": EmbeddedDataset(tuple("0123456789"), _digit),
        "letter": EmbeddedDataset(tuple(string.ascii_uppercase), _letter),
        "typeface": _of_fonts(TYPEFACES),
        "slant": _of_fonts(SLANTS),
        "count": EmbeddedDataset(tuple("123456"), _count),
        "position": EmbeddedDataset(NINE, _position),
        "orientation": EmbeddedDataset(EIGHT, _orientation),
    }
)
