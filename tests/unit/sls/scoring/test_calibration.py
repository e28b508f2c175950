"""The temperature and the calibration error, against slow twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from sls.scoring.calibration import BINS, COLDEST, HOTTEST, calibration_error, fit_temperature


def drawn(heat: float, count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose softmax at the temperature `heat` says how often each class is right."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 1.5, (count, 5))
    shares = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(5, p=row) for row in shares])
    return (heat * true).astype(np.float32), labels


def loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return functional.cross_entropy(torch.from_numpy(logits) / temperature, torch.from_numpy(labels)).item()


def slow_error(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    shares = torch.from_numpy(logits).double().div(temperature).softmax(dim=1).numpy()
    total = 0.0
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        inside = [row for row in range(len(labels)) if low < shares[row].max() <= high]
        if inside:
            right = np.mean([shares[row].argmax() == labels[row] for row in inside])
            total += len(inside) / len(labels) * abs(right - np.mean([shares[row].max() for row in inside]))
    return total


@pytest.mark.parametrize("heat", [0.3, 1.0, 4.0])
def test_the_temperature_is_that_of_the_least_loss(heat):
    logits, labels = drawn(heat)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(heat, rel=0.25)
    assert loss(logits, labels, found) <= min(loss(logits, labels, t) for t in np.geomspace(0.1, 10, 200)) + 1e-6


def test_answers_that_are_all_right_or_all_wrong_reach_the_ends():
    logits = np.eye(3, dtype=np.float32)
    assert fit_temperature(logits, np.arange(3)) == COLDEST
    assert fit_temperature(logits, (np.arange(3) + 1) % 3) == HOTTEST


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_the_mean_gap_of_the_bins(temperature, seed):
    logits, labels = drawn(2.0, count=150, seed=seed)
    assert calibration_error(logits, labels, temperature) == pytest.approx(
        slow_error(logits, labels, temperature), abs=1e-4
    )


def test_the_fitted_temperature_makes_the_error_small():
    logits, labels = drawn(4.0, count=2000)
    assert calibration_error(logits, labels) > 0.2
    assert calibration_error(logits, labels, fit_temperature(logits, labels)) < 0.05
