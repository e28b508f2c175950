"""From image bytes to the backbone's input, the same way for tuning, predicting and serving."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data import create_transform

from store.errors import ImageError
from store.records.backbone import Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 50_000_000
REMEDY = f"send a JPEG, PNG, WebP or BMP of at most {MAX_PIXELS:,} pixels"


def decode(data: bytes) -> Image.Image:
    """Decode to RGB, upright as its EXIF orientation says; raise `ImageError` on anything else.

    The pixel count is read from the header and checked before any pixel is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"image of {width:,} x {height:,} pixels is too large: {REMEDY}")
            image.load()
            return to_rgb(image)
    except Image.DecompressionBombError:
        raise ImageError(f"image is too large to decode safely: {REMEDY}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{len(data)} bytes beginning {data[:8]!r} are not an image: {REMEDY}") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"image cannot be decoded ({error}): {REMEDY}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image upright as its EXIF orientation says, and to RGB: transparency is dropped, 16-bit grey scaled."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # PIL clips 16-bit grey to 255 on conversion, which turns most of such an image white.
        return Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def make_transform(preprocessing: Preprocessing) -> Callable[[Image.Image], torch.Tensor]:
    """Build timm's evaluation transform: RGB image -> (3, height, width) float32, normalised."""
    p = preprocessing
    transform = create_transform(
        input_size=(3, p.height, p.width),
        is_training=False,
        interpolation=p.interpolation,
        mean=p.mean,
        std=p.std,
        crop_pct=p.crop_pct,
        crop_mode=p.crop_mode,
    )
    return cast(Callable[[Image.Image], torch.Tensor], transform)
