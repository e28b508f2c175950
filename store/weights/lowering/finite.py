"""The last guard before the engine: no task hands it a number that is not finite.

The engine joins the tasks of a batch in one product, where a NaN of one task could reach another. A file that was
published has finite numbers alone; what is checked here are the numbers that the engine gets, as a finite float32 may
be an infinity in a narrower dtype, and a lowering may divide by zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from store.errors import RefusedError
from store.weights.forms import Forms


def all_finite(numbers: Tensor) -> bool:
    """Say whether no number is a NaN or an infinity, in one pass: either would be left in the sum."""
    return math.isfinite(numbers.sum()) or bool(numbers.isfinite().all())  # a sum of finite numbers can overflow


def require_finite_file(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise `RefusedError` where the file has a NaN or an infinity, whatever a lowering would make of it."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise RefusedError(
                f"{source}: tensor {name[:120]!r} has a NaN or an infinity: train it again from before it diverged"
            )


def require_finite(forms: Forms, dtype: torch.dtype) -> Forms:
    """Return the forms; raise `RefusedError` where a number in them is not finite."""
    for path, form in (*forms.deltas.items(), *forms.norms.items(), *forms.bottlenecks.items()):
        values = (getattr(form, field.name) for field in fields(form))  # type: ignore[arg-type]
        if not all(all_finite(value) for value in values if isinstance(value, Tensor)):
            raise not_finite(f"module {path!r}", dtype)
    return forms


def not_finite(subject: str, dtype: torch.dtype) -> RefusedError:
    name = str(dtype).removeprefix("torch.")
    wider = "" if dtype == torch.float32 else "serve it in float32 with `dtype=`, or "
    return RefusedError(f"{subject}: its numbers are not all finite in {name}: {wider}train it again, with less alpha")
