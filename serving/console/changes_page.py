"""Changes of a task: each is shown before it is made, with what it needs and why it would be refused."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serving.console.change_previews import (
    Preview,
    preview_promotion,
    preview_removal,
    preview_restoring,
    preview_rollback,
    preview_tag,
)
from serving.console.state import Answer, Moved, Shown, Visit
from store.errors import NotFoundError
from store.records.refs import Ref

FIELDS = ("task", "alias", "version", "key", "value", "force")


@dataclass(frozen=True)
class Change:
    """A change by its name: what it would do, and doing it."""

    preview: Callable[[Visit, str], Preview]
    apply: Callable[[Visit, str], None]


def _promote(visit: Visit, task: str) -> None:
    version = visit.number("version") or 0
    visit.store.set_alias(task, visit.required("alias"), version, force=_forced(visit))


def _rollback(visit: Visit, task: str) -> None:
    visit.store.rollback(task, visit.required("alias"), force=_forced(visit))


def _tag(visit: Visit, task: str) -> None:
    visit.store.set_tag(task, visit.required("key"), visit.text("value"), version=visit.number("version"))


def _remove(visit: Visit, task: str) -> None:
    version = visit.number("version")
    visit.store.remove(task if version is None else f"{task}:{version}", all_versions=version is None)


def _restore(visit: Visit, task: str) -> None:
    visit.store.restore(task, visit.number("version"))


CHANGES: Mapping[str, Change] = {
    "promote": Change(preview_promotion, _promote),
    "rollback": Change(preview_rollback, _rollback),
    "tag": Change(preview_tag, _tag),
    "remove": Change(preview_removal, _remove),
    "restore": Change(preview_restoring, _restore),
}


def preview(visit: Visit) -> Answer:
    task = Ref.parse(visit.required("task")).task
    visit.store.check("read", task)
    shown = _change(visit).preview(visit, task)
    fields = {name: visit.text(name) for name in FIELDS}
    values = {"task": task, "preview": shown, "action": visit.fields["action"], "fields": fields}
    return Shown("change.html", values)


def apply(visit: Visit) -> Answer:
    task = Ref.parse(visit.required("task")).task
    _change(visit).apply(visit, task)
    return Moved(f"/tasks/{urllib.parse.quote(task)}?done={visit.fields['action']}")


def _change(visit: Visit) -> Change:
    change = CHANGES.get(visit.fields["action"])
    if change is None:
        raise NotFoundError(f"no change {visit.fields['action'][:40]!r}: there is {', '.join(CHANGES)}")
    return change


def _forced(visit: Visit) -> bool:
    return visit.text("force") == "1"
