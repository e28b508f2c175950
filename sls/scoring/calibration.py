"""Whether the scores of a model say how often it is right: the temperature that would make them, and the error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sls.data.dataset import Labels

Logits = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

BINS = 15
COLDEST, HOTTEST = 0.05, 20.0
STEPS = 60  # of bisection: far below the digits that are kept


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """argmin_T of the mean of -log softmax(logits / T)[label] (Guo et al. 2017), for T in 0.05..20.

    The loss is convex in 1 / T: its slope, the mean of E_softmax[logits] - logits[label], is bisected.
    """
    z = logits.astype(np.float64)
    right = z[np.arange(len(z)), labels]
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        slope = ((softmax(z * middle) * z).sum(axis=1) - right).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(f"{2 / (low + high):.4g}")


def calibration_error(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """ECE = sum_b n_b / n |accuracy_b - mean confidence_b| over 15 bins of equal width (Naeini et al. 2015)."""
    confidence, right = confidences(logits, labels, temperature)
    bins = bins_of(confidence)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(f"{np.abs(gaps).sum() / len(right):.4g}")


def confidences(logits: Logits, labels: Labels, temperature: float = 1.0) -> tuple[Doubles, Doubles]:
    """Return the score of each answer, and 1 where it is right, else 0."""
    shares = softmax(logits.astype(np.float64) / temperature)
    return shares.max(axis=1), (logits.argmax(axis=1) == labels).astype(np.float64)


def bins_of(confidence: Doubles) -> npt.NDArray[np.int64]:
    """Return the bin of each score, from 0; a score on an edge belongs to the lower bin."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def softmax(logits: Doubles) -> Doubles:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Doubles = raised / raised.sum(axis=1, keepdims=True)
    return shares
