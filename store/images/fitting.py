"""Resize and crop to the backbone's input with Pillow alone, pixel for pixel as timm's evaluation transform does."""

from __future__ import annotations

import math

from PIL import Image

from store.errors import ImageError
from store.images.limits import MAX_PIXELS
from store.records.backbone import Preprocessing

BLACK = (0, 0, 0)
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}


def fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Return the RGB image as (width, height) of the preprocessing; raise `ImageError` before it would grow too large.

    An image that is scaled up along its longer side may have any number of pixels before the crop.
    """
    p = preprocessing
    width, height = resized_size(image.size, p)
    if min(width, height) < 1:
        raise ImageError(
            f"image of {image.width:,} x {image.height:,} pixels becomes {width:,} x {height:,}: "
            "send one that is less long and thin"
        )
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"image of {image.width:,} x {image.height:,} pixels becomes {width:,} x {height:,} before it is cropped, "
            f"{MAX_PIXELS:,} pixels are the most: send one that is less long and thin"
        )
    if image.size != (width, height):
        image = image.resize((width, height), RESAMPLING[p.interpolation])
    # timm pads with the backbone's mean where it letterboxes, and torchvision with black elsewhere.
    fill = tuple(round(255 * value) for value in p.mean) if p.crop_mode == "border" else BLACK
    return centre(image, p.width, p.height, fill)


def resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the size (width, height) between resizing and cropping."""
    p, (width, height) = preprocessing, size
    to_height, to_width = (math.floor(side / p.crop_pct) for side in (p.height, p.width))
    if p.crop_mode == "squash":
        return to_width, to_height
    if p.crop_mode != "border" and to_height == to_width:
        if width <= height:
            return to_width, int(to_width * height / width)
        return int(to_height * width / height), to_height
    ratios = height / to_height, width / to_width
    ratio = max(ratios) if p.crop_mode == "border" else min(ratios)
    return round(width / ratio), round(height / ratio)


def centre(image: Image.Image, width: int, height: int, fill: tuple[int, ...]) -> Image.Image:
    """Crop around the centre, after padding what is smaller."""
    if width > image.width or height > image.height:
        left, top = max(0, width - image.width) // 2, max(0, height - image.height) // 2
        padded = Image.new("RGB", (max(width, image.width), max(height, image.height)), fill)
        padded.paste(image, (left, top))
        image = padded
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    box = (left, top, left + width, top + height)
    return image if box == (0, 0, *image.size) else image.crop(box)
