"""Small data sets that a toy backbone learns, and the comparison of two tuned tasks."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load

from sls.adapters.model import Tuned
from sls.data.dataset import Dataset, Split
from store.weights.backbones import Backbone
from support.toy_backbone import make_toy


def toy_backbone() -> Backbone:
    toy = make_toy()
    return Backbone(toy.record, load(toy.weights))


def colours(train: int = 40, validation: int = 12, test: int = 30, *, spread: float = 60) -> Dataset:
    """Noise around red, green and blue: learned at once where the spread is small."""
    random = np.random.default_rng(0)

    def part(count: int) -> Split:
        labels = np.arange(count) % 3
        images = random.normal(np.eye(3)[labels][:, None, None, :] * 100 + 60, spread, (count, 32, 32, 3))
        return Split(tuple(images.clip(0, 255).astype(np.uint8)), labels)

    return Dataset("colours", ("red", "green", "blue"), part(train), part(validation), part(test))


def haze(train: int = 40, validation: int = 60, test: int = 30) -> Dataset:
    """Noise so strong around three colours that a model's depths differ in their answers."""
    random = np.random.default_rng(0)

    def part(count: int) -> Split:
        labels = np.arange(count) % 3
        means = np.eye(3)[labels] * 100 + 60 + random.normal(0, 120, (count, 3))
        images = random.normal(means[:, None, None, :], 60, (count, 32, 32, 3))
        return Split(tuple(images.clip(0, 255).astype(np.uint8)), labels)

    return Dataset("haze", ("red", "green", "blue"), part(train), part(validation), part(test))


class InterruptionError(Exception):
    """The power fails."""


def same(one: Tuned, other: Tuned) -> bool:
    pairs = [(one.weight, other.weight), (one.bias, other.bias)]
    pairs += [(value, other.adapter[key]) for key, value in one.adapter.items()]
    return one.adapter.keys() == other.adapter.keys() and all(torch.equal(a, b) for a, b in pairs)
