"""The history once more, beside the blobs: one object a transaction, from which a lost catalogue is rebuilt.

An object is written after its transaction is committed and before that is acknowledged, and never before its
predecessor is there. So the journal is always a beginning of the history, and holds all that was acknowledged.
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
    def __init__(self, backend: Backend, reader: Queries) -> None:
        self._backend = backend
        self._reader = reader

    def keep(self, events: list[Event], previous: int | None) -> None:
        """Write the events of one transaction, after those of any before it whose writer has died; `previous` is the
        number of the batch before.
        """
        turn = partial(self._follow, previous)
        if events:
            self._write(events, turn)
        else:
            turn()

    def _follow(self, batch: int | None) -> None:
        """Wait a little for the object of a writer that is most likely at work on it, then write it in its stead."""
        if batch is None:
            return
        for pause_s in PAUSES_S:
            if self._backend.size(journal_key(batch)) is not None:
                return
            time.sleep(pause_s)
        self.mend(batch)

    def mend(self, batch: int | None = None) -> None:
        """Write what is missing up to this batch, the last by default."""
        if batch is None:
            batch = _batch_of(self._reader.event())
        missing: list[list[Event]] = []
        while batch is not None and self._backend.size(journal_key(batch)) is None:
            events = self._reader.batch(batch)
            before = _batch_of(self._reader.event(batch - 1)) if batch > 1 else None
            if not events or (before is not None and before >= batch):
                return  # the catalogue was tampered with: the audit says so, and nothing of it is written
            missing.append(events)
            batch = before
        for events in reversed(missing):
            self._write(events)

    def check_last(self) -> None:
        """Raise `IntegrityError` where the journal goes on after the catalogue's last event."""
        last = self._reader.event()
        while last is not None and self._backend.size(journal_key(last.number + 1)) is not None:
            before, last = last, self._reader.event()
            if last == before:
                raise IntegrityError(
                    f"the catalogue ends with event {last.number}, and {self.locate(last.number + 1)} is of the next: "
                    "it is an old copy; move it away and run `onetrunk rebuild`"
                )

    def _write(self, events: list[Event], before_commit: Callable[[], None] = no_op) -> None:
        number, data = events[0].number, encode(events)
        if (
            not self._backend.create(journal_key(number), data, before_commit=before_commit)
            and self.read(number) != data
        ):
            raise IntegrityError(
                f"{self.locate(number)} has another event {number} than the catalogue, of which there are two: keep "
                "the one that it agrees with, or move both away and run `onetrunk rebuild`"
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
