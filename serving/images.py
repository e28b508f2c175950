"""Images as callers have them: encoded bytes, a file, or an image of Pillow."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from store.errors import ImageError

ImageSource = bytes | str | Path | Image.Image
"""Encoded bytes, the path of a file, or a Pillow image."""


def encoded(image: ImageSource) -> bytes:
    """Return a file's bytes, or a Pillow image as PNG, upright; raise `ImageError` where a file cannot be read."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        png = io.BytesIO()
        upright = ImageOps.exif_transpose(image)
        is_grey16 = upright.mode.startswith("I")  # RGB would clip it to 255
        (upright.convert("I").convert("I;16") if is_grey16 else upright.convert("RGB")).save(png, "PNG")
        return png.getvalue()
    if not isinstance(image, str | Path):
        raise ImageError(f"{type(image).__name__} is not an image: give encoded bytes, a path or a Pillow image")
    try:
        return Path(image).read_bytes()
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        problem = getattr(error, "strerror", None) or error
        raise ImageError(f"{str(image)[:200]!r} cannot be read ({problem}): give the path of an image file") from None
