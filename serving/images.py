"""Images as callers have them: encoded bytes, a file, or an image of Pillow."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from store.errors import ImageError

ImageSource = bytes | Path | Image.Image


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
    try:
        return image.read_bytes()
    except OSError as error:
        raise ImageError(f"{str(image)!r} cannot be read ({error.strerror}): give the path of an image file") from None
