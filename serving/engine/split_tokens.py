"""A batch in two models at once: the kernel runs the tasks that it knows, torch those whose maps are turned."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from serving.engine.batch_run import Tokens
from serving.engine.row_plan import EngineRow, EngineTask


@dataclass
class Part:
    """The tokens of one model, the members of the batch that it runs, and from where its rows go on."""

    tokens: Tokens
    members: Collection[int]
    places: list[int] = field(default_factory=list)
    """Of its rows that go on, the places among all rows of the batch that go on."""


class SplitTokens:
    """Tokens of both models as those of one; a row that members of both share runs in both until it is split."""

    def __init__(self, tasks: Sequence[EngineTask], parts: Sequence[Part]) -> None:
        self._tasks = tasks
        self._parts = parts

    def advance(self, rows: Sequence[EngineRow], sources: Sequence[int], start: int, stop: int) -> Mapping[int, Tensor]:
        going_on = [index for index, row in enumerate(rows) if row.depth > stop]
        places = {index: place for place, index in enumerate(going_on)}
        logits: dict[int, Tensor] = {}
        for part in self._parts:
            own = self._rows_of(part, rows)
            if not own:
                continue
            from_ = [sources[index] if start == 0 else part.places.index(sources[index]) for index, _ in own]
            logits |= part.tokens.advance([row for _, row in own], from_, start, stop)
            part.places = [places[index] for index, row in own if row.depth > stop]
        return logits

    def _rows_of(self, part: Part, rows: Sequence[EngineRow]) -> list[tuple[int, EngineRow]]:
        """Return the rows that members of a part are in, deepest first, each with its index among all."""
        own = []
        for index, row in enumerate(rows):
            members = tuple(member for member in row.members if member in part.members)
            if members:
                depth = max(self._tasks[member].depth for member in members)
                own.append((index, replace(row, members=members, depth=depth)))
        return sorted(own, key=lambda pair: -pair[1].depth)
