"""From RGB images to the backbone's input, the same way for tuning, predicting and serving."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform

from store.records.backbone import Preprocessing


class Normalise:
    """(height, width, 3) uint8 -> (3, height, width) float32, by a table of what timm computes for each value.

    After `store.images.fitting.fit` it gives the bits of `make_transform`, without torchvision's dozens of calls for
    each image.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        p = preprocessing
        mean, std = (torch.tensor(values)[:, None] for values in (p.mean, p.std))
        values = torch.arange(256, dtype=torch.uint8).expand(3, -1)
        self._table = values.to(torch.float32).div(255).sub(mean).div(std).numpy()
        self._shape = (p.height, p.width, 3)

    def __call__(self, pixels: bytes) -> torch.Tensor:
        rows = np.frombuffer(pixels, np.uint8).reshape(self._shape)
        normalised = np.empty((3, *self._shape[:2]), np.float32)
        for channel in range(3):
            # Every index is below 256; "clip" spares numpy the look at each of them.
            self._table[channel].take(rows[..., channel], out=normalised[channel], mode="clip")
        return torch.from_numpy(normalised)


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
