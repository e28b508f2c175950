"""One open transaction on the catalogue, which records its own events."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from store.catalogue.aliases import check_rule, rule_of
from store.catalogue.database import execute_in, select_in
from store.catalogue.schema import aliases, history
from store.queries.reader import Queries
from store.records.blob import canonical_json
from store.records.events import COLUMNS, GENESIS, Event, now
from store.records.evidence import Certificate

# Built once: building a statement costs SQLAlchemy more than SQLite takes to run it.
INSERT_EVENT = history.insert()
SAME_ALIAS = (aliases.c.task == sa.bindparam("of_task")) & (aliases.c.alias == sa.bindparam("of_alias"))
INSERT_ALIAS = aliases.insert()
UPDATE_ALIAS = aliases.update().where(SAME_ALIAS).values(version=sa.bindparam("to_version"))
DELETE_ALIAS = aliases.delete().where(SAME_ALIAS)


def row_of_event(event: Event) -> dict[str, object]:
    row = {name: getattr(event, name) for name in COLUMNS}
    return {**row, "details": None if event.details is None else canonical_json(event.details).decode()}


class Transaction:
    """One open transaction: `queries` read within it, and `events` are those that it has recorded so far."""

    def __init__(self, connection: sa.Connection, actor: str | None) -> None:
        self.connection = connection
        self.select = select_in(connection)
        self.execute = execute_in(connection)
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
            at=max(now(), last.at if last else ""),  # a clock that was set back must not reverse the history
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
        self.execute(INSERT_EVENT, row_of_event(event))
        self.events.append(event)
        self._last = event
        return event

    def move_alias(
        self,
        task: str,
        alias: str,
        version: int,
        certificate: Certificate | None,
        *,
        force: bool,
        rollback: bool = False,
    ) -> None:
        """Point the alias at the version alone, unless it does so already; raise where its rule does not allow it."""
        current = self.queries.aliases(task).get(alias)
        if current == version and self.queries.split(task, alias) is None:
            return
        check_rule(rule_of(self.queries, task, alias), f"{task}:{version}", certificate, force=force)
        if current == version:
            self.record("split-rm", task, version=version, alias=alias)
        else:
            self.write_alias(task, alias, version, current=current, rollback=rollback)

    def write_alias(
        self,
        task: str,
        alias: str,
        version: int,
        *,
        current: int | None,
        rollback: bool = False,
        evidence: Mapping[str, object] | None = None,
    ) -> None:
        """Point the alias at the version, whatever its rule; `current` is the version that it points at now.

        A split of the alias ends with it. `evidence` is why a server did it.
        """
        if current is None:
            self.execute(INSERT_ALIAS, {"task": task, "alias": alias, "version": version})
        else:
            self.execute(UPDATE_ALIAS, {"of_task": task, "of_alias": alias, "to_version": version})
        details: dict[str, object] = {"from": current, **({"rollback": True} if rollback else {})}
        if evidence is not None:
            details["evidence"] = evidence
        self.record("alias", task, version=version, alias=alias, details=details)

    def delete_alias(self, task: str, alias: str) -> None:
        self.execute(DELETE_ALIAS, {"of_task": task, "of_alias": alias})
        self.record("alias-rm", task, alias=alias)
