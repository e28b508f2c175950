"""The history as the journal has it, from its first event."""

from __future__ import annotations

from collections.abc import Iterator

from store.backend import Backend
from store.decoding import decode
from store.errors import FormatError, IntegrityError
from store.events import GENESIS, Event
from store.layout import JOURNAL, JOURNAL_KEY, journal_key


def replay(backend: Backend) -> Iterator[Event]:
    """Yield the history that the journal holds; raise `IntegrityError` where it is not one unbroken chain."""
    number, previous = 1, GENESIS
    for key in sorted(file.path for file in backend.walk(JOURNAL) if JOURNAL_KEY.fullmatch(file.path)):
        place = backend.locate(key)
        try:
            events = decode_events(backend.read(key), place)
        except FormatError as error:
            raise IntegrityError(f"{error}; the journal is damaged there: restore the file from a copy") from None
        if not events or key != journal_key(events[0].number):
            raise IntegrityError(f"{place} does not hold the events that it should: restore it from a copy")
        for event in events:
            if (event.number, event.previous) != (number, previous):
                raise IntegrityError(
                    f"{place}: event {event.number} does not follow event {number - 1}: the journal was changed or "
                    "a file of it is missing; restore it from a copy"
                )
            number, previous = number + 1, event.sha256
            yield event


def decode_events(data: bytes, what: str) -> list[Event]:
    """Decode one journal object: an event a line."""
    return [decode(Event, line, what, newest=0) for line in data.splitlines()]
