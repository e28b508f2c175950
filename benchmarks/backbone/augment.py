"""What the packaged backbone's training images go through, a batch at a time, on the device that trains."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

AREA, RATIO = (0.3, 1.0), (3 / 4, 4 / 3)  # of a crop, as shares of the image
JITTER = 0.3  # brightness, contrast and saturation change by this share, at most
GREY = 0.1  # share of the images that lose their colours
MIXED = 0.8  # share of the batches whose images are mixed in pairs
MIXUP, CUTMIX = 0.4, 1.0  # both parameters of their Beta distributions
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Mixed:
    """Images (n, 3, h, w) in 0..1, of which `share` shows their own class and the rest that of the image before."""

    images: Tensor
    share: float


class Augmentation:
    """Draws what happens to each batch; numbers of an image are drawn on its device, those of a batch on the host."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        self._luma = torch.tensor(LUMA, device=device).view(1, 3, 1, 1)
        self._draws = torch.Generator(device).manual_seed(seed)
        self._host = random.Random(seed)

    def __call__(self, images: Tensor) -> Mixed:
        """Crop, flip, recolour and mix uint8 images (n, 3, h, w)."""
        return self.mix(self.recolour(self.crop(images.float() / 255)))

    def crop(self, images: Tensor) -> Tensor:
        """Cut a random rectangle out of each image, mirrored or not, and resize it to the image's size."""
        n = len(images)
        area, ratio = self._between(*AREA, n), self._between(*map(math.log, RATIO), n).exp()
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        x, y = ((1 - size) * self._between(-1, 1, n) for size in (width, height))  # an image reaches from -1 to 1
        mirrored = torch.where(self._between(0, 1, n) < 0.5, -width, width)
        zero = torch.zeros_like(x)
        theta = torch.stack([torch.stack([mirrored, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def recolour(self, images: Tensor) -> Tensor:
        """Change brightness, contrast and saturation of each image; make some grey."""
        n = len(images)
        brightness, contrast, saturation = (self._between(1 - JITTER, 1 + JITTER, n).view(n, 1, 1, 1) for _ in range(3))
        saturation = saturation.masked_fill(self._between(0, 1, n).view(n, 1, 1, 1) < GREY, 0)
        images = images * brightness
        images = _towards(images, images.mean((1, 2, 3), keepdim=True), contrast)
        luma = (images * self._luma).sum(1, keepdim=True)
        return _towards(images, luma, saturation).clamp(0, 1)

    def mix(self, images: Tensor) -> Mixed:
        """Blend each image with the one before it (mixup), or paste a rectangle of that (CutMix), or do neither."""
        kind = self._host.random()
        if kind < MIXED / 2:
            share = self._host.betavariate(MIXUP, MIXUP)
            return Mixed(images.lerp(images.roll(1, 0), 1 - share), share)
        if kind < MIXED:
            return self._cutmix(images)
        return Mixed(images, 1.0)

    def _cutmix(self, images: Tensor) -> Mixed:
        height, width = images.shape[2:]
        side = math.sqrt(1 - self._host.betavariate(CUTMIX, CUTMIX))
        h, w = int(height * side), int(width * side)
        top, left = self._host.randint(0, height - h), self._host.randint(0, width - w)
        pasted = images.clone()
        pasted[:, :, top : top + h, left : left + w] = images.roll(1, 0)[:, :, top : top + h, left : left + w]
        return Mixed(pasted, 1 - h * w / (height * width))

    def _between(self, low: float, high: float, n: int) -> Tensor:
        return torch.rand(n, device=self._device, generator=self._draws) * (high - low) + low


def _towards(images: Tensor, origin: Tensor, share: Tensor) -> Tensor:
    """Keep this share of what sets the images apart from the origin."""
    return origin + share * (images - origin)
