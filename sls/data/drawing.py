"""Drawing for the embedded datasets: colours, positions that do not overlap, and shapes, from a random generator."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
SCALE = 2
"""Images are drawn this many times larger and then reduced, for smooth edges."""

Random = np.random.Generator
Colour = tuple[int, ...]


def colours(random: Random, count: int) -> list[Colour]:
    """Draw a dark background and `count` light colours."""
    shades = [random.uniform(0, 70, 3), *random.uniform(150, 255, (count, 3))]
    return [tuple(int(channel) for channel in shade) for shade in shades]


def canvas_of(colour: Colour) -> Image.Image:
    return Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), colour)


def stamp(canvas: Image.Image, mask: Image.Image, colour: Colour, corner: tuple[int, int]) -> None:
    canvas.paste(Image.new("RGB", mask.size, colour), corner, mask)


def near_centre(random: Random, size: tuple[int, int]) -> tuple[int, int]:
    """Draw the upper left corner of a box of `size` inside the image, at most three pixels from the middle."""
    free = [SIDE * SCALE - extent for extent in size]
    x, y = (int(np.clip(room / 2 + random.uniform(-3, 3) * SCALE, 0, room)) for room in free)
    return x, y


def draw_centres(random: Random, radii: list[float]) -> list[tuple[float, float]]:
    """Draw the centres of circles that lie inside the image and do not overlap; start again if they do not fit."""
    size = SIDE * SCALE
    while True:
        centres: list[tuple[float, float]] = []
        for radius in radii:
            x, y = random.uniform(radius + 2, size - radius - 2, 2)
            if all(
                (x - u) ** 2 + (y - v) ** 2 > (radius + r + 2) ** 2 for (u, v), r in zip(centres, radii, strict=False)
            ):
                centres.append((x, y))
        if len(centres) == len(radii):
            return centres


def polygon(
    canvas: Image.Image,
    centre: tuple[float, float],
    radius: float,
    *,
    corners: int,
    turn: float,
    colour: Colour,
) -> None:
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    points = [(centre[0] + radius * np.cos(a), centre[1] + radius * np.sin(a)) for a in angles]
    ImageDraw.Draw(canvas).polygon(points, fill=colour)
