"""The tokens of a batch's rows, of which each may have another number: rows of as many tokens are together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from serving.engine.core_threads import CoreThreads
from store.records.tokens import Step
from store.weights.tokens import places_of

T = TypeVar("T")


class TokenRows:
    """Parts (n, tokens, dim) of neighbouring rows, which the core threads run side by side.

    Rows are in their own order where all have as many tokens; else the rows of each number are together, in order.
    """

    def __init__(self, threads: CoreThreads, x: Tensor, *, one_by_one: bool) -> None:
        self._threads = threads
        self._one_by_one = one_by_one
        self._groups = [threads.split(x)]
        self._order = [list(range(len(x)))]  # the rows of each group

    def run(self, step: Callable[[Tensor, Sequence[T]], Tensor], rows: Sequence[T]) -> None:
        """Apply a step to each part of the rows, each in a core thread of its own."""
        self._groups = [
            self.applied(step, parts, [rows[row] for row in order])
            for parts, order in zip(self._groups, self._order, strict=True)
        ]

    def applied(
        self, step: Callable[[Tensor, Sequence[T]], Tensor], parts: Sequence[Tensor], rows: Sequence[T]
    ) -> list[Tensor]:
        ends = list(accumulate(len(x) for x in parts))
        pairs = [(x, rows[end - len(x) : end]) for x, end in zip(parts, ends, strict=True)]
        apply = partial(_one_by_one, step) if self._one_by_one else step
        return self._threads.run([partial(apply, x, own) for x, own in pairs])

    def gather(self, sources: Sequence[int], steps: Sequence[Step | None], prefix: int) -> None:
        """Go on with these rows of those that there are, and of each with the patches of its step, if it has one."""
        cut, first = any(steps), list(range(len(sources)))
        same = list(sources) == first
        if not cut and same and len(first) == sum(map(len, self._order)):
            return
        if cut or len(self._groups) > 1:
            self._regroup(sources, steps, prefix)
            return
        x = self._joined(0)
        self._groups, self._order = [self._threads.split(x[: len(first)] if same else x[list(sources)])], [first]

    def _regroup(self, sources: Sequence[int], steps: Sequence[Step | None], prefix: int) -> None:
        """Take the patches of each step out of all its rows at once; then join the rows of as many tokens."""
        at = {row: (group, place) for group, order in enumerate(self._order) for place, row in enumerate(order)}
        alike: dict[tuple[int, Step | None], list[int]] = {}
        for row, (source, step) in enumerate(zip(sources, steps, strict=True)):
            alike.setdefault((at[source][0], step), []).append(row)
        counts: dict[int, list[tuple[list[int], Tensor]]] = {}
        for (group, step), rows in alike.items():
            x = self._joined(group)[[at[sources[row]][1] for row in rows]]
            x = x if step is None else x.index_select(1, places_of(step, prefix).to(x.device))
            counts.setdefault(x.shape[1], []).append((rows, x))
        self._groups, self._order = [], []
        for made in counts.values():
            order = [row for rows, _ in made for row in rows]
            x = made[0][1] if len(made) == 1 else torch.cat([x for _, x in made])
            if order != sorted(order):
                x = x[sorted(range(len(order)), key=order.__getitem__)]
            self._groups.append(self._threads.split(x))
            self._order.append(sorted(order))

    def by_count(self, rows: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the places in `rows` whose rows have as many tokens, and their tokens; rows are in order."""
        for group, order in enumerate(self._order):
            own = {row: place for place, row in enumerate(order)}
            places = [index for index, row in enumerate(rows) if row in own]
            if places:
                x, taken = self._joined(group), [own[rows[index]] for index in places]
                yield places, x[taken[0] :] if taken == list(range(taken[0], len(x))) else x[taken]

    def _joined(self, group: int) -> Tensor:
        parts = self._groups[group]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _one_by_one(step: Callable[[Tensor, Sequence[T]], Tensor], x: Tensor, rows: Sequence[T]) -> Tensor:
    return torch.cat([step(x[index : index + 1], rows[index : index + 1]) for index in range(len(x))])
