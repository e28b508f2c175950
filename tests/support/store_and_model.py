"""A store and the model of it side by side: one call changes both, and both must answer alike."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from store.errors import OnetrunkError
from store.maintenance.verify import verify
from store.registry.store import Store, Version
from support.model_records import ModelTask, canonical, sha256
from support.store_model import Model

T = TypeVar("T")
U = TypeVar("U")
ACTOR = "somebody"


def attempt(call: Callable[[], T]) -> tuple[T | None, type[OnetrunkError] | None]:
    try:
        return call(), None
    except OnetrunkError as error:
        return None, type(error)


class StoreAndModel(RuleBasedStateMachine):
    """A store and its model, changed together, with the history that both must agree on."""

    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a place: what a disk does to the store is for other tests.
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="onetrunk-model-", dir=memory if memory.is_dir() else None))
        self.root = self.folder / "store"
        self.store = Store.open(self.root, create=True, actor=ACTOR)
        self.model = Model()
        self.events = list(self.store.queries.history())
        self.moves: list[tuple[str, str, str, int | None]] = []
        self.digests: dict[tuple[str, int], str] = {}
        self.is_settled = False
        """Whether all has been checked since the last step that changed something."""

    def teardown(self) -> None:
        try:
            assert verify(self.store) == []
        finally:
            self.store.close()
            shutil.rmtree(self.folder)

    def both(self, act: Callable[[Store], T], predict: Callable[[Model], U]) -> tuple[T | None, U | None]:
        """Change the store and the model: either both raise the same error and nothing changes, or neither raises."""
        model = self.model.copy()
        model.moves.clear()
        predicted, refusal = attempt(lambda: predict(model))
        actual, error = attempt(lambda: act(self.store))
        assert error is refusal
        if error is None:
            self.model, self.is_settled = model, False
        self.check_events([] if error else model.moves)
        return actual, predicted

    def check_events(self, moves: list[tuple[str, str, int | None]]) -> None:
        """Check that the new events continue the history, are one transaction, and make the model's moves."""
        new = list(self.store.queries.history(since=len(self.events)))
        for event in new:
            last = self.events[-1]
            fields = dataclasses.asdict(last)
            since_2 = ("actor", "details", "batch")
            encoded = canonical({key: fields[key] for key in fields if fields[key] is not None or key not in since_2})
            assert (event.number, event.previous) == (last.number + 1, sha256(encoded))
            assert event.at >= last.at
            assert (event.actor, event.batch) == (ACTOR, new[0].number)
            self.events.append(event)
        moved = [event for event in new if event.action in ("alias", "alias-rm")]
        assert [(e.subject, e.alias, e.version) for e in moved] == moves
        self.moves += [(event.at, *move) for event, move in zip(moved, moves, strict=True)]

    def check_published(self, actual: Version | None, number: int | None) -> None:
        if actual is not None:
            kept = self.model.tasks[actual.task].versions[actual.number]
            assert (actual.number, actual.digest) == (number, kept.digest)
            assert self.digests.setdefault((actual.task, actual.number), actual.digest) == actual.digest

    def number(self, task: str, pick: int, *, first: Callable[[str, int], bool] | None = None) -> int:
        """Pick a number of the task, or the next one: those that `first` accepts come first, newer before older."""
        there = range(self.model.tasks.get(task, ModelTask()).next, 0, -1)
        ordered = sorted(there, key=lambda number: not (first or self.is_there)(task, number))
        return ordered[pick % len(ordered)]

    def is_any_removed(self) -> bool:
        return any(kept.removed for task in self.model.tasks.values() for kept in task.versions.values())

    def is_there(self, task: str, number: int) -> bool:
        return task in self.model.tasks and number in self.model.tasks[task].there

    def is_removed(self, task: str, number: int) -> bool:
        return not self.is_there(task, number) and number in self.model.tasks.get(task, ModelTask()).versions

    def is_spare(self, task: str, number: int) -> bool:
        return self.is_there(task, number) and number not in self.model.tasks[task].aliases.values()
