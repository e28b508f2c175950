"""One open transaction on the catalogue, and what it records of itself."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from store.catalogue.database import executing, selecting
from store.catalogue.schema import history
from store.queries.reader import Queries
from store.records.blob import canonical_json
from store.records.events import COLUMNS, GENESIS, Event, now

INSERT = history.insert()


def row_of_event(event: Event) -> dict[str, object]:
    row = {name: getattr(event, name) for name in COLUMNS}
    return {**row, "details": None if event.details is None else canonical_json(event.details).decode()}


class Transaction:
    """One open transaction: asks with `reader`, records each event, and knows the events recorded so far."""

    def __init__(self, connection: sa.Connection, actor: str | None) -> None:
        self.connection = connection
        self.select = selecting(connection)
        self.execute = executing(connection)
        self.queries = Queries.within(self.select)
        self.actor = actor
        self.events: list[Event] = []
        self._last = self.queries.event()
        self.previous_batch = None if self._last is None else self._last.batch or self._last.number

    def record(
        self,
        action: str,
        subject: str,
        *,
        version: int | None = None,
        alias: str | None = None,
        digest: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> Event:
        """Append an event to the history."""
        last = self._last
        number = 1 if last is None else last.number + 1
        event = Event(
            number=number,
            at=max(now(), last.at if last else ""),  # a clock that was set back must not turn the history around
            action=action,
            subject=subject,
            version=version,
            alias=alias,
            digest=digest,
            previous=GENESIS if last is None else last.sha256,
            actor=self.actor,
            details=details,
            batch=self.events[0].number if self.events else number,
        )
        self.execute(INSERT, row_of_event(event))
        self.events.append(event)
        self._last = event
        return event
