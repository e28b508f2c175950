"""Queries of the history, in SQL that SQLite and PostgreSQL share."""

from __future__ import annotations

from collections.abc import Iterator

from store.queries.sql import EVENT, QueryBase, event_of, scalar, without_none
from store.records.bounds import MAX_NUMBER
from store.records.events import TASK_ACTIONS, Event
from store.records.splits import AliasSplit

OF_ALIAS = "('alias', 'alias-rm', 'split', 'split-rm')"
"""Actions that decide who answers for an alias: the last one counts."""


class HistoryQueries(QueryBase):
    """Find events."""

    def history(self, subject: str | None = None, *, since: int = 0) -> Iterator[Event]:
        """Yield every event after number `since`, or those of one subject, oldest first."""
        where = "AND subject = :subject" if subject is not None else ""
        with self.connect() as select:
            for row in select(
                f"SELECT {EVENT} FROM history WHERE number > :since {where} ORDER BY number",
                **without_none(since=since, subject=subject),
            ):
                yield event_of(row)

    def task_history(self, task: str, *, after: int, limit: int | None) -> list[Event]:
        """Return the events of a task without its first ones, `after` of them, oldest first, at most `limit`."""
        actions = ", ".join(f"'{action}'" for action in sorted(TASK_ACTIONS))
        with self.connect() as select:
            rows = select(
                f"SELECT {EVENT} FROM history WHERE subject = :task AND action IN ({actions}) ORDER BY number "
                "LIMIT :limit OFFSET :after",
                task=task,
                after=after,
                limit=MAX_NUMBER if limit is None else limit,
            )
            return [event_of(row) for row in rows]

    def batch(self, number: int) -> list[Event]:
        """Return the events of the transaction whose first event has this number; format 1 had one event in each."""
        with self.connect() as select:
            rows = select(
                f"SELECT {EVENT} FROM history WHERE number >= :number AND COALESCE(batch, number) = :number "
                "ORDER BY number",
                number=number,
            )
            return [event_of(row) for row in rows]

    def event(self, number: int | None = None) -> Event | None:
        """Return the event of this number, or the last."""
        where = "WHERE number = :number" if number is not None else ""
        with self.connect() as select:
            rows = select(
                f"SELECT {EVENT} FROM history {where} ORDER BY number DESC LIMIT 1", **without_none(number=number)
            )
            return next((event_of(row) for row in rows), None)

    def split(self, task: str, alias: str) -> AliasSplit | None:
        """Return how the alias is split, None where its last event is not a split."""
        with self.connect() as select:
            rows = select(
                f"SELECT {EVENT} FROM history WHERE subject = :task AND alias = :alias AND action IN {OF_ALIAS} "
                "ORDER BY number DESC LIMIT 1",
                task=task,
                alias=alias,
            )
            return next((_split_of(event_of(row)) for row in rows if row[2] == "split"), None)

    def splits(self, task: str) -> list[AliasSplit]:
        """Return the splits of the task's aliases, by the names of these."""
        with self.connect() as select:
            rows = select(
                f"SELECT {EVENT} FROM history h WHERE subject = :task AND action = 'split' AND NOT EXISTS ("
                "SELECT 1 FROM history l WHERE l.subject = h.subject AND l.number > h.number AND l.alias = h.alias "
                f"AND l.action IN {OF_ALIAS}) ORDER BY alias",
                task=task,
            )
            return [_split_of(event_of(row)) for row in rows]

    def version_at(self, task: str, alias: str, at: str) -> int | None:
        """Return the version that the alias pointed at then (ISO 8601, UTC, milliseconds), or None."""
        with self.connect() as select:
            rows = select(
                "SELECT action, version FROM history WHERE subject = :task AND alias = :alias AND at <= :at "
                "AND action IN ('alias', 'alias-rm') ORDER BY number DESC LIMIT 1",
                task=task,
                alias=alias,
                at=at,
            )
            return next((version for action, version in rows if action == "alias"), None)

    def digest_at(self, task: str, version: int) -> str | None:
        """Return the digest that this number was published with, even if the version has been purged."""
        with self.connect() as select:
            digest = scalar(
                select(
                    "SELECT digest FROM history WHERE subject = :task AND version = :version AND action = 'publish'",
                    task=task,
                    version=version,
                )
            )
            return None if digest is None else str(digest)


def _split_of(event: Event) -> AliasSplit:
    return AliasSplit.from_details(event.subject, event.alias or "", event.details or {}, number=event.number)
