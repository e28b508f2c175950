"""What a card says of its cut: checked when it is task_card, and written as its format could say it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from store.errors import FormatError
from store.records.evidence import Accuracy, Certificate, Lineage, PruneIndex, Validation
from store.records.manifest import MANIFEST_FORMAT, SINCE, Card

FULL, CUT = Accuracy(90, 100), Accuracy(88, 100)
KEPT = Certificate(FULL, CUT, validation=Validation(FULL, CUT), max_drop=2.0, curve=(CUT, FULL), duplicates=3)
UNDECIDED = PruneIndex(2, 4, criterion="ridge", tolerance=0.01, candidates=(2, 3))


def card(**parts: Any) -> Card:
    fields = {"prune_index": PruneIndex(2, 4, criterion="given"), **parts}
    return Card("0" * 64, **fields)


def test_all_evidence_survives_its_card() -> None:
    task_card = card(prune_index=UNDECIDED, certificate=KEPT, lineage=Lineage(code_commit="c0ffee1"))
    assert task_card.format == MANIFEST_FORMAT
    assert Card.from_json(task_card.to_json()) == task_card


def test_a_certificate_may_say_that_what_the_cut_costs_is_not_known() -> None:
    task_card = card(certificate=Certificate(None, CUT))
    assert json.loads(task_card.to_json())["certificate"]["full"] is None
    assert Card.from_json(task_card.to_json()) == task_card


def test_the_drop_is_in_points_and_a_gain_is_below_zero() -> None:
    assert Validation(FULL, CUT).drop == pytest.approx(2.0)
    assert Validation(CUT, FULL).drop == pytest.approx(-2.0)


@pytest.mark.parametrize("max_drop", [2.0, 2.5, 100.0])
def test_a_bound_that_validation_keeps_is_certified(max_drop: float) -> None:
    assert dataclasses.replace(KEPT, max_drop=max_drop).max_drop == max_drop


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"max_drop": 1.9}, "is not kept by"),
        ({"max_drop": 0.0}, "is not kept by"),
        ({"max_drop": -1.0}, "give points of accuracy, 0..100"),
        ({"max_drop": 100.5}, "give points of accuracy, 0..100"),
        ({"validation": None}, "is not kept by None"),
    ],
)
def test_a_bound_that_validation_does_not_keep_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(FormatError, match=rule):
        dataclasses.replace(KEPT, **changes)


@pytest.mark.parametrize("candidates", [(3,), (0, 2), (2, 5)])
def test_candidates_are_depths_and_the_chosen_one_is_among_them(candidates: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="name depths, this one too"):
        dataclasses.replace(UNDECIDED, candidates=candidates)


@pytest.mark.parametrize("older", range(1, MANIFEST_FORMAT))
def test_an_older_format_is_written_without_what_it_could_not_say(older: int) -> None:
    task_card = card(certificate=Certificate(FULL, CUT), lineage=Lineage("data"), format=older)
    written = json.loads(task_card.to_json())
    for part, keys in ((part, keys) for part, keys in SINCE.items() if part in written):
        assert {key for key in keys if key in written[part]} == {k for k, since in keys.items() if since <= older}
    assert Card.from_json(task_card.to_json()) == task_card


@pytest.mark.parametrize(
    ("parts", "format_", "key"),
    [
        ({"prune_index": UNDECIDED}, 2, "tolerance"),
        ({"prune_index": dataclasses.replace(UNDECIDED, tolerance=0.0)}, 2, "tolerance"),
        ({"prune_index": dataclasses.replace(UNDECIDED, tolerance=None)}, 2, "candidates"),
        ({"certificate": dataclasses.replace(KEPT, max_drop=None, curve=(), duplicates=None)}, 2, "validation"),
        ({"certificate": Certificate(FULL, CUT, curve=(CUT,))}, 2, "curve"),
        ({"lineage": Lineage(parent="a@sha256:" + "0" * 64)}, 1, "parent"),
        ({"certificate": Certificate(None, CUT)}, 3, "certificate without full"),
        ({"certificate": Certificate(FULL, CUT, duplicates=0)}, 5, "duplicates"),
        ({}, 0, "is not valid"),
    ],
)
def test_what_a_format_cannot_say_is_refused(parts: dict[str, Any], format_: int, key: str) -> None:
    with pytest.raises(FormatError, match=key):
        card(**parts, format=format_)
