"""Replay the history: from its events to the state of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from sys import intern
from typing import cast

from store.backends.base import Backend
from store.backends.layout import JOURNAL, JOURNAL_KEY, journal_key
from store.errors import FormatError, IntegrityError
from store.records.decoding import decode
from store.records.events import GENESIS, AliasRule, ApiKey, BackboneRow, Event


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version in the history: its manifest's digest and size in bytes, and the backbone's fingerprint."""

    digest: str
    nbytes: int
    backbone: str
    published_at: str
    removed_at: str | None = None


@dataclass
class CatalogueState:
    """All that the catalogue holds, except for leases and marks, which a rebuild does not bring back."""

    identity: str = ""
    backbones: dict[str, BackboneRow] = field(default_factory=dict)
    next_versions: dict[str, int] = field(default_factory=dict)
    versions: dict[tuple[str, int], PublishedVersion] = field(default_factory=dict)
    aliases: dict[tuple[str, str], int] = field(default_factory=dict)
    rules: dict[tuple[str, str], AliasRule] = field(default_factory=dict)
    tags: dict[tuple[str, int, str], str] = field(default_factory=dict)
    keys: dict[str, ApiKey] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        """Apply one event; events of format 1 are skipped, as the `migrate` event after them has their whole state."""
        if event.action == "create":
            self.identity = event.subject
        elif event.batch is not None:
            apply = APPLY.get(event.action)
            if apply is None:
                raise FormatError(
                    f"event {event.number} has action {event.action!r}, which is unknown: upgrade onetrunk"
                )
            try:
                apply(self, event)
            except (KeyError, TypeError, AttributeError, ValueError):
                raise FormatError(
                    f"event {event.number} ({event.action} of {event.subject}) does not follow from those before it: "
                    "the history was changed; restore it from a copy"
                ) from None


def _details(event: Event) -> dict[str, object]:
    return dict(event.details or {})


def _backbone(state: CatalogueState, event: Event) -> None:
    details = _details(event)
    fingerprint = cast(str, details["fingerprint"])
    state.backbones[fingerprint] = BackboneRow(
        event.subject, fingerprint, cast(str, event.digest), cast(int, details["nbytes"])
    )


def _backbone_rm(state: CatalogueState, event: Event) -> None:
    del state.backbones[cast(str, _details(event)["fingerprint"])]


def _publish(state: CatalogueState, event: Event) -> None:
    details, number = _details(event), cast(int, event.version)
    state.next_versions[event.subject] = number + 1
    state.versions[event.subject, number] = PublishedVersion(
        cast(str, event.digest), cast(int, details["nbytes"]), intern(cast(str, details["backbone"])), event.at
    )


def _alias(state: CatalogueState, event: Event) -> None:
    if event.alias is None or event.version is None:
        raise ValueError
    state.aliases[event.subject, event.alias] = event.version


def _alias_rm(state: CatalogueState, event: Event) -> None:
    del state.aliases[event.subject, cast(str, event.alias)]


def _nothing(_state: CatalogueState, _event: Event) -> None:
    """Change no table: what an alias's last event says of its split is the split."""


def _rule(state: CatalogueState, event: Event) -> None:
    rule = AliasRule(event.subject, cast(str, event.alias), **cast(dict[str, bool], _details(event)))
    if rule == AliasRule(rule.task, rule.alias):
        state.rules.pop((rule.task, rule.alias), None)
    else:
        state.rules[rule.task, rule.alias] = rule


def _tag(state: CatalogueState, event: Event) -> None:
    details = _details(event)
    key = (event.subject, event.version or 0, cast(str, details["key"]))
    if details["value"] is None:
        del state.tags[key]
    else:
        state.tags[key] = cast(str, details["value"])


def _rm(state: CatalogueState, event: Event) -> None:
    key = (event.subject, cast(int, event.version))
    state.versions[key] = replace(state.versions[key], removed_at=event.at)


def _restore(state: CatalogueState, event: Event) -> None:
    key = (event.subject, cast(int, event.version))
    state.versions[key] = replace(state.versions[key], removed_at=None)


def _purge(state: CatalogueState, event: Event) -> None:
    number = cast(int, event.version)
    del state.versions[event.subject, number]
    for key in [key for key in state.tags if key[:2] == (event.subject, number)]:
        del state.tags[key]


def _key(state: CatalogueState, event: Event) -> None:
    details = _details(event)
    state.keys[event.subject] = ApiKey(
        event.subject,
        cast("str | None", details["tenant"]),
        tuple(cast(list[str], details["scopes"])),
        cast(str, details["sha256"]),
        event.at,
    )


def _key_revoke(state: CatalogueState, event: Event) -> None:
    state.keys[event.subject] = replace(state.keys[event.subject], revoked_at=event.at)


def _migrate(state: CatalogueState, event: Event) -> None:
    """Set the whole state of a store of format 1, whose own events do not record all of it."""
    details = cast(dict[str, list[list[object]]], _details(event))
    state.backbones = {cast(str, row[1]): BackboneRow(*cast(list[str], row)) for row in details["backbones"]}  # type: ignore[arg-type]
    for task, version, *rest in details["versions"]:
        state.versions[cast(str, task), cast(int, version)] = PublishedVersion(*cast(list[str], rest))  # type: ignore[arg-type]
    state.next_versions = {cast(str, task): cast(int, number) for task, number in details["next_versions"]}
    state.aliases = {(cast(str, t), cast(str, a)): cast(int, v) for t, a, v in details["aliases"]}


APPLY: Mapping[str, Callable[[CatalogueState, Event], None]] = {
    "backbone": _backbone,
    "backbone-rm": _backbone_rm,
    "publish": _publish,
    "alias": _alias,
    "alias-rm": _alias_rm,
    "split": _nothing,
    "split-rm": _nothing,
    "rule": _rule,
    "tag": _tag,
    "rm": _rm,
    "restore": _restore,
    "purge": _purge,
    "key": _key,
    "key-revoke": _key_revoke,
    "migrate": _migrate,
}


def snapshot_details(state: CatalogueState) -> dict[str, object]:
    """Return the state as the details of a `migrate` event."""
    return {
        "backbones": [[r.name, r.fingerprint, r.record, r.record_nbytes] for r in state.backbones.values()],
        "versions": [
            [task, version, v.digest, v.nbytes, v.backbone, v.published_at]
            for (task, version), v in state.versions.items()
        ],
        "next_versions": [[task, number] for task, number in state.next_versions.items()],
        "aliases": [[task, alias, version] for (task, alias), version in state.aliases.items()],
    }


def read_journal(backend: Backend) -> Iterator[Event]:
    """Yield the events of the journal; raise `IntegrityError` where they are not one unbroken chain."""
    number, previous = 1, GENESIS
    for key in sorted(file.path for file in backend.list(JOURNAL) if JOURNAL_KEY.fullmatch(file.path)):
        location = backend.locate(key)
        try:
            events = decode_events(backend.read(key), location)
        except FormatError as error:
            raise IntegrityError(f"{error}; the journal is damaged there: restore the file from a copy") from None
        if not events or key != journal_key(events[0].number):
            raise IntegrityError(f"{location} does not hold the events that its name says: restore it from a copy")
        for event in events:
            if (event.number, event.previous) != (number, previous):
                raise IntegrityError(
                    f"{location}: event {event.number} does not follow event {number - 1}: the journal was changed or "
                    "a file of it is missing; restore it from a copy"
                )
            number, previous = number + 1, event.sha256
            yield event


def decode_events(data: bytes, where: str) -> list[Event]:
    """Decode one journal object, which has one event a line; `where` it lies is for messages."""
    return [decode(Event, line, where, newest=0) for line in data.splitlines()]
