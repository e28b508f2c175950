from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from sls.scoring.ridge import PENALTIES, ridge_head
from store.errors import DataError


def drawn(seed: int, *, samples: int = 30, width: int = 8, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, samples)
    centres = random.normal(size=(classes, width))
    return (centres[labels] + 2 * random.normal(size=(samples, width)) + 5).astype(np.float32), labels


def refit(features: np.ndarray, targets: np.ndarray, penalty: float) -> Ridge:
    return Ridge(penalty, solver="svd").fit(features.astype(np.float64), targets)


def left_out(features: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """What is predicted for each row by the model that is fitted without it."""
    rows = np.arange(len(targets))
    models = [refit(features[rows != row], targets[rows != row], penalty) for row in rows]
    return np.concatenate([model.predict(features[[row]]) for row, model in zip(rows, models, strict=True)])


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), samples=st.integers(4, 25), width=st.integers(2, 40))
def test_the_penalty_is_the_one_with_the_least_error_on_rows_left_out_of_the_fit(seed, samples, width):
    features, labels = drawn(seed, samples=samples, width=width)
    targets = np.eye(3)[labels]
    scale = np.square(features - features.mean(axis=0, dtype=np.float64)).sum() / width
    errors = {share: np.square(left_out(features, targets, share * scale) - targets).sum() for share in PENALTIES}
    head = ridge_head(features, labels, 3)
    assert errors[min(PENALTIES, key=lambda share: abs(share * scale - head.penalty))] <= min(errors.values()) + 1e-9
    predicted = left_out(features, targets, head.penalty).argmax(axis=1)
    assert head.leave_one_out == pytest.approx((predicted == labels).mean())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), samples=st.integers(4, 40), width=st.integers(2, 60), classes=st.integers(2, 5))
def test_the_head_is_scikit_learns_ridge_at_that_penalty(seed, samples, width, classes):
    features, labels = drawn(seed, samples=samples, width=width, classes=classes)
    head = ridge_head(features, labels, classes)
    twin = refit(features, np.eye(classes)[labels], head.penalty)
    assert head.weight.shape == (classes, width)
    assert head.weight.dtype == head.bias.dtype == torch.float32
    assert np.allclose(head.weight, twin.coef_, atol=1e-5)
    assert np.allclose(head.bias, twin.intercept_, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_neither_the_order_of_the_rows_nor_the_threads_change_a_bit(seed):
    features, labels = drawn(seed)
    expected = ridge_head(features, labels, 3)
    order = np.random.default_rng(seed).permutation(len(labels))
    with threadpool_limits(2):
        again = ridge_head(features[order], labels[order], 3)
    assert torch.equal(again.weight, expected.weight)
    assert torch.equal(again.bias, expected.bias)
    assert (again.penalty, again.leave_one_out) == (expected.penalty, expected.leave_one_out)


def test_threads_that_share_a_large_decomposition_change_no_bit():
    features, labels = drawn(0, samples=500, width=384)
    heads = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            heads.append(ridge_head(features, labels, 3))
    assert heads[0].penalty == heads[1].penalty
    assert torch.equal(heads[0].weight, heads[1].weight)


def test_the_intercept_is_not_penalised():
    features, labels = drawn(0)
    moved = ridge_head(features + np.float32(64), labels, 3)
    logits = torch.from_numpy(features + np.float32(64)) @ moved.weight.T + moved.bias
    here = ridge_head(features, labels, 3)
    assert torch.allclose(logits, torch.from_numpy(features) @ here.weight.T + here.bias, atol=1e-3)


def test_the_logits_of_a_row_sum_to_one():
    features, labels = drawn(1)
    head = ridge_head(features, labels, 3)
    assert torch.allclose(
        (torch.from_numpy(features) @ head.weight.T + head.bias).sum(dim=1), torch.ones(30), atol=1e-5
    )


def test_a_class_without_a_row_is_never_answered():
    features, labels = drawn(2)
    head = ridge_head(features, labels, 5)
    logits = torch.from_numpy(features) @ head.weight.T + head.bias
    assert torch.equal(logits[:, 3:], torch.zeros(30, 2))
    assert int(logits.argmax(dim=1).max()) < 3


def test_equal_rows_get_the_share_of_each_class():
    head = ridge_head(np.ones((4, 3), np.float32), np.array([0, 0, 0, 1]), 2)
    assert torch.equal(head.weight, torch.zeros(2, 3))
    assert head.bias.tolist() == [0.75, 0.25]
    assert head.leave_one_out == 0.75


def test_separate_classes_are_all_right():
    labels = np.arange(60) % 3
    features = (np.eye(3, 80)[labels] * 9 + np.random.default_rng(0).normal(size=(60, 80)) / 9).astype(np.float32)
    assert ridge_head(features, labels, 3).leave_one_out == 1


FEATURES, LABELS = drawn(0)


@pytest.mark.parametrize(
    ("features", "labels", "classes", "message"),
    [
        (FEATURES, LABELS[:-1], 3, "29 labels"),
        (FEATURES, LABELS, 2, "0..1"),
        (FEATURES, LABELS - 1, 3, "0..2"),
        (FEATURES[:1], LABELS[:1], 3, "1 row"),
        (FEATURES[:0], LABELS[:0], 3, "one row"),
        (np.where(np.arange(8) == 3, np.nan, FEATURES), LABELS, 3, "not a finite number"),
    ],
)
def test_rows_that_no_head_fits_are_refused_in_one_line(features, labels, classes, message):
    with pytest.raises(DataError, match=message) as caught:
        ridge_head(features, labels, classes)
    assert "\n" not in str(caught.value)
