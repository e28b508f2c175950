"""A store beside the same tasks in other forms: bytes at rest, from how many tasks on it takes less, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from store.accounting.counterfactuals import SERVING, ComparedTask, Comparison, Counterfactual, Resident
from store.accounting.forms import FORMS, backbone_nbytes, payload_nbytes


def compare(tasks: Sequence[ComparedTask], *, physical_nbytes: int, stored_nbytes: int, left_out: int) -> Comparison:
    """Count every form; `stored_nbytes` are those of the backbones in the store."""
    backbones = {task.record.id.fingerprint: task.record for task in tasks}
    elsewhere = sum(record.nbytes for record in backbones.values() if record.weights is None)
    fixed = stored_nbytes + elsewhere
    ours = physical_nbytes + elsewhere
    rows = [make(tasks) for make in FORMS] if tasks else []
    forms = [_with_break_even(row, len(tasks), fixed, ours) for row in rows]
    return Comparison(len(tasks), left_out, ours, fixed, tuple(forms))


def _with_break_even(row: Counterfactual, tasks: int, fixed: int, ours: int) -> Counterfactual:
    return replace(row, break_even_tasks=break_even(fixed, ours, row.fixed_nbytes, row.nbytes, tasks))


def break_even(fixed: int, ours: int, other_fixed: int, other: int, tasks: int) -> int | None:
    """Return the least K >= 1 with fixed + K a < other_fixed + K b, for a and b a task's bytes here and there.

    None where there is none, or only few tasks take less here.
    """
    slope = (other - other_fixed) - (ours - fixed)  # K tasks times b - a
    gap = (fixed - other_fixed) * tasks
    if slope > 0:
        return max(1, gap // slope + 1)
    return 1 if slope == 0 and gap < 0 else None


def resident(tasks: Sequence[ComparedTask]) -> Resident:
    heads = sum(task.facts.head_tensors.payload_nbytes for task in tasks)
    elements = sum(task.record.parameters + task.facts.head_tensors.elements for task in tasks)
    return Resident(
        shared_nbytes=backbone_nbytes(tasks) + payload_nbytes(tasks),
        copies_nbytes=sum(task.record.nbytes for task in tasks) + heads,
        copies_serving_nbytes=SERVING * elements,
    )
