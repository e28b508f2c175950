"""The journal: the history as objects beside the blobs, one for each transaction, to rebuild a lost catalogue from.

An object is written after its transaction is committed and before that is acknowledged, and never before its
predecessor exists. So the journal is always a prefix of the history, and has every acknowledged transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from store.backends.base import Backend, no_op
from store.backends.layout import journal_key
from store.errors import IntegrityError
from store.queries.reader import Queries
from store.records.events import Event

PAUSES_S = (0.0005, 0.0005, 0.001, 0.001, 0.002, 0.002, 0.004, 0.008, 0.016)


class Journal:
    """Write, read and repair the journal of a store."""

    def __init__(self, backend: Backend, queries: Queries) -> None:
        self._backend = backend
        self._queries = queries

    def keep(self, events: list[Event], previous: int | None) -> None:
        """Write the events of one transaction, and before it those of earlier ones that the journal lacks.

        `previous` is the number of the batch before.
        """
        follow = partial(self._follow, previous)
        if events:
            self._write(events, follow)
        else:
            follow()

    def _follow(self, batch: int | None) -> None:
        """Wait a little for the object of another writer, who is most likely writing it; then write it instead."""
        if batch is None:
            return
        for pause_s in PAUSES_S:
            if self._backend.size(journal_key(batch)) is not None:
                return
            time.sleep(pause_s)
        self.repair(batch)

    def repair(self, batch: int | None = None) -> None:
        """Write the objects that are missing up to this batch, by default the last one."""
        if batch is None:
            batch = _batch_of(self._queries.event())
        missing: list[list[Event]] = []
        while batch is not None and self._backend.size(journal_key(batch)) is None:
            events = self._queries.batch(batch)
            before = _batch_of(self._queries.event(batch - 1)) if batch > 1 else None
            if not events or (before is not None and before >= batch):
                return  # the catalogue was tampered with: verify reports it, and nothing of it is written
            missing.append(events)
            batch = before
        for events in reversed(missing):
            self._write(events)

    def check_last(self) -> None:
        """Raise `IntegrityError` where the journal has an event after the catalogue's last one."""
        last = self._queries.event()
        while last is not None and self._backend.size(journal_key(last.number + 1)) is not None:
            before, last = last, self._queries.event()
            if last == before:
                raise IntegrityError(
                    f"the catalogue ends with event {last.number}, and {self.locate(last.number + 1)} is of the next: "
                    "it is an old copy; move it away and rebuild it with `rebuild(url)`"
                )

    def _write(self, events: list[Event], before_commit: Callable[[], None] = no_op) -> None:
        number, data = events[0].number, encode(events)
        if (
            not self._backend.create(journal_key(number), data, before_commit=before_commit)
            and self.read(number) != data
        ):
            raise IntegrityError(
                f"{self.locate(number)} has another event {number} than the catalogue: there are two catalogues; keep "
                "the one that it agrees with, or move both away and rebuild one with `rebuild(url)`"
            )

    def read(self, number: int) -> bytes | None:
        """Return the object that begins with this event, None where there is none."""
        try:
            return self._backend.read(journal_key(number))
        except FileNotFoundError:
            return None

    def locate(self, number: int) -> str:
        return self._backend.locate(journal_key(number))


def _batch_of(event: Event | None) -> int | None:
    """Return the number of the first event of its transaction; format 1 had one event in each."""
    return None if event is None else event.batch or event.number


def encode(events: Sequence[Event]) -> bytes:
    return b"".join(event.to_json() + b"\n" for event in events)
