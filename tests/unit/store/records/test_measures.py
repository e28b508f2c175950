"""Counts by class and calibration: checked when they are made, and kept by a card of their format."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from store.errors import FormatError
from store.records.evidence import Accuracy, Certificate, PruneIndex, Rounding
from store.records.manifest import Card
from store.records.measures import Calibration, ClassCounts

COUNTS = ClassCounts((5, 3, 0), (4, 3, 1), (4, 2, 0), ((4, 1, 0), (0, 2, 1), (0, 0, 0)))
CALIBRATION = Calibration(1.5, 40, 0.1, 0.04)
CERTIFICATE = Certificate(
    None,
    Accuracy(6, 8),
    rounding=Rounding("float16", Accuracy(7, 8)),
    class_counts=COUNTS,
    calibration=CALIBRATION,
)


def card(certificate: Certificate, format_: int) -> Card:
    return Card("0" * 64, PruneIndex(2, 4, criterion="given"), certificate, format=format_)


def test_all_measures_survive_their_card() -> None:
    assert Card.from_json(card(CERTIFICATE, 7).to_json()) == card(CERTIFICATE, 7)


@pytest.mark.parametrize("key", ["rounding", "class_counts", "calibration"])
def test_a_format_before_them_has_no_measures(key: str) -> None:
    only = Certificate(None, Accuracy(6, 8), **{key: getattr(CERTIFICATE, key)})
    with pytest.raises(FormatError, match=f"format 6 has no {key}: write"):
        card(only, 6)


def test_a_measure_that_was_not_taken_is_left_out_of_the_bytes() -> None:
    written = card(Certificate(None, Accuracy(6, 8), calibration=CALIBRATION), 7).to_json()
    assert b"calibration" in written
    assert b"rounding" not in written
    assert b"class_counts" not in written
    assert Card.from_json(written).certificate.rounding is None


def test_precision_recall_and_f1_are_those_of_the_counts() -> None:
    assert COUNTS.precision == (1.0, 2 / 3, 0.0)
    assert COUNTS.recall == (4 / 5, 2 / 3, None)
    assert COUNTS.f1 == (8 / 9, 2 / 3, 0.0)
    assert COUNTS.macro_f1 == pytest.approx((8 / 9 + 2 / 3) / 2)


def test_a_class_that_was_never_answered_has_no_precision() -> None:
    counts = ClassCounts((2, 0), (2, 0), (2, 0))
    assert (counts.precision, counts.f1) == ((1.0, None), (1.0, None))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"images": (5, 3)}, "one of each kind for every class"),
        ({"correct": (4, 4, 0)}, "4 correct of 3 images"),
        ({"correct": (-1, 2, 0)}, "-1 correct"),
        ({"answered": (4, 3, 2)}, "8 images and 9 answers"),
        ({"confusion": ((4, 1, 0), (0, 2, 1))}, "confusion matrix"),
        ({"confusion": ((4, 1), (0, 2), (0, 0))}, "confusion matrix"),
        ({"confusion": ((4, 0, 1), (0, 2, 1), (0, 0, 0))}, "confusion matrix"),
        ({"confusion": ((4, 1, 0), (0, 2, 1), (0, 0, 0))[::-1]}, "confusion matrix"),
    ],
)
def test_counts_that_disagree_are_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(FormatError, match=rule):
        dataclasses.replace(COUNTS, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"temperature": 0.0}, {"temperature": float("inf")}, {"fitted_on": 0}, {"ece": 1.1}, {"ece_scaled": -0.1}],
)
def test_a_calibration_has_a_temperature_and_shares(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="give"):
        dataclasses.replace(CALIBRATION, **changes)


def test_counts_are_of_the_images_of_the_accuracy() -> None:
    with pytest.raises(FormatError, match="counts by class of 6/8 for accuracy 5/8"):
        dataclasses.replace(CERTIFICATE, cut=Accuracy(5, 8))
