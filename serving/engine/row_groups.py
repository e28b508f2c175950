"""Neighbouring rows of a batch that one operation can take together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypeVar

from store.weights.forms import Bottleneck, Delta, Norm

Form = TypeVar("Form", Norm, Bottleneck)


def group_by_form(forms: Sequence[Form | None]) -> Iterator[tuple[slice, Form | None]]:
    """Yield the neighbouring rows that have the same form or none, and this form."""
    start = 0
    for _, group in groupby(forms, id):
        same = list(group)
        yield slice(start, start + len(same)), same[0]
        start += len(same)


def group_by_shape(deltas: Sequence[Delta | None]) -> Iterator[tuple[slice, list[Delta]]]:
    """Yield the neighbouring rows whose deltas have one shape, and these deltas; rows without a delta are left out."""
    start = 0
    for _, group in groupby(deltas, lambda delta: None if delta is None else (delta.shape, delta.turns)):
        rows = list(group)
        present = [delta for delta in rows if delta is not None]
        if present:
            yield slice(start, start + len(rows)), present
        start += len(rows)
