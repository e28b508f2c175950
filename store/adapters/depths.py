"""Whether the modules that an adapter changes all run at a depth."""

from __future__ import annotations

from collections.abc import Mapping

from store.adapters.task_files import WEIGHTS
from store.errors import AdapterMismatchError, UnservedAdapterError
from store.records.geometry import LAST_NORM, Geometry


def check_depth(ranks: Mapping[str, int], depth: int, geometry: Geometry) -> None:
    """Raise a `RefusedError` where an adapted module is above the depth, or is a norm that does not run there."""
    if not ranks:
        raise UnservedAdapterError(f"{WEIGHTS} has no tensors: save the tuned adapter with PEFT again")
    deepest = max(ranks, key=geometry.number)
    if (number := geometry.number(deepest)) > depth:
        raise AdapterMismatchError(
            f"module {deepest!r} is in block {number}, above depth {depth}: "
            f"drop the adapters above it with `drop_above_depth=True`, or publish at depth {number}"
        )
    if LAST_NORM in ranks and geometry.ends_early(depth):
        first = sum(geometry.stages[:-1]) + 1
        raise AdapterMismatchError(
            f"the last norm is adapted, and depth {depth} is before the last stage, which alone has it: publish at "
            f"depth {first} or more, or tune the norms of the blocks alone"
        )
