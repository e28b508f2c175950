"""Images as callers have them: encoded bytes, a file, or an image of Pillow."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from store.errors import ImageError
from store.images.decoding import stated_orientation, upright

IMAGES_TYPE = "application/vnd.onetrunk.images"  # of a body in which each image follows its length
LENGTH = struct.Struct("<I")
ImageSource = bytes | str | Path | Image.Image
"""Encoded bytes, the path of a file, or a Pillow image."""


def join_by_length(images: Iterable[bytes]) -> bytes:
    """Return a body of this type."""
    return b"".join(part for image in images for part in (LENGTH.pack(len(image)), image))


def encoded(image: ImageSource) -> bytes:
    """Return a file's bytes, or a Pillow image as PNG, upright; raise `ImageError` where a file cannot be read."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        png = io.BytesIO()
        turned = upright(image, stated_orientation(image))
        is_grey16 = turned.mode.startswith("I")  # RGB would clip it to 255
        plain = turned.convert("I").convert("I;16") if is_grey16 else turned.convert("RGB")
        plain.info = {}  # Pillow would write its EXIF, and the server turn it once more
        plain.save(png, "PNG")
        return png.getvalue()
    if not isinstance(image, str | Path):
        raise ImageError(f"{type(image).__name__} is not an image: give encoded bytes, a path or a Pillow image")
    try:
        return Path(image).read_bytes()
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        problem = getattr(error, "strerror", None) or error
        raise ImageError(f"{str(image)[:200]!r} cannot be read ({problem}): give the path of an image file") from None
