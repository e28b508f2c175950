"""What must hold after many processes worked on one store: their logged results must agree with its history."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from store.catalogue.aliases import rollback_target
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.queries.reader import Queries
from store.records.events import GENESIS, Event
from store.registry.store import Store
from support.concurrency_operations import OperationResult

CLOCK_S = 0.001  # the history has milliseconds
HELD, GONE = "InUseError", "VersionNotFoundError"
ALLOWED: Mapping[str, frozenset[str]] = {
    "set_alias": frozenset({GONE}),
    "remove_alias": frozenset({GONE}),
    "rollback": frozenset({GONE}),
    "tag": frozenset({GONE}),
    "remove": frozenset({HELD, GONE}),
    "restore": frozenset({GONE}),
    "resolve": frozenset({GONE}),
    "export": frozenset({GONE}),
}
"""The only errors that may be answered: another process removed the version, or points an alias at it."""


@dataclass(frozen=True)
class Span:
    """When a reader may have found the alias at this version: until the change after the next has begun."""

    version: int | None
    start_s: float
    end_s: float


def problems(store: Store, outcomes: Sequence[OperationResult]) -> list[str]:
    """Return every contradiction between the results and the store, or within either."""
    events = list(store.queries.history())
    checks: tuple[Callable[[], Iterator[str]], ...] = (
        lambda: check_chain(events),
        lambda: check_errors(events, outcomes),
        lambda: check_versions(store, events, outcomes),
        lambda: check_content(events),
        lambda: check_aliases(store, events),
        lambda: check_rollbacks(events),
        lambda: check_moves(events, outcomes),
        lambda: check_reads(events, outcomes),
        lambda: check_authors(events, outcomes),
        lambda: check_rebuilt(store, events),
        lambda: (f"verify: {finding}" for finding in verify(store)),
    )
    return [problem for check in checks for problem in check()]


def check_chain(events: Sequence[Event]) -> Iterator[str]:
    """Events are numbered 1..n, each has the digest of the one before, and no time is before its predecessor's."""
    previous, at = GENESIS, ""
    for number, event in enumerate(events, start=1):
        if event.number != number or event.previous != previous or event.at < at:
            yield f"event {event.number} at place {number} does not follow from the one before it"
        previous, at = event.sha256, event.at


def check_errors(events: Sequence[Event], outcomes: Sequence[OperationResult]) -> Iterator[str]:
    """Errors come of races by design alone, and only where the history has the other half of the race."""
    removed = defaultdict(lambda: math.inf)
    for event in events:
        if event.action == "rm":
            removed[event.subject, event.version] = min(removed[event.subject, event.version], seconds(event))
    for outcome in outcomes:
        if outcome.error is None:
            continue
        if outcome.error not in ALLOWED.get(outcome.kind, frozenset()):
            yield f"{outcome.worker} {outcome.kind}: {outcome.error}: {outcome.message}"
        missed = outcome.error == GONE and outcome.version is not None and outcome.kind != "restore"
        if missed and removed[outcome.task, outcome.version] > outcome.ended_s:
            yield f"{outcome.kind}: {outcome.task}:{outcome.version} was not found, and nobody had removed it"


def check_versions(store: Store, events: Sequence[Event], outcomes: Sequence[OperationResult]) -> Iterator[str]:
    """Versions are dense and unique by task; what was acknowledged is what the history has, and the reverse."""
    published: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.action == "publish":
            published[event.subject].append(event)
    acknowledged = {(o.task, o.version): o for o in outcomes if o.kind == "publish" and o.error is None}
    for task, found in published.items():
        numbers = [event.version for event in found]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"{task}: versions are numbered {numbers}"
        yield from (f"{task}:{n} was published, and nobody was told" for n in numbers if (task, n) not in acknowledged)
    digests = {(task, event.version): event.digest for task, found in published.items() for event in found}
    for outcome in outcomes:
        place = (outcome.task, outcome.version)
        if outcome.error is None and outcome.digest is not None and digests.get(place) != outcome.digest:
            yield f"{outcome.kind} answered {place} {outcome.digest}, the history has {digests.get(place)}"
        if outcome.kind == "export" and outcome.error is None and outcome.content != acknowledged[place].content:
            yield f"{place} was exported with {outcome.content}, published with {acknowledged[place].content}"
    there = {(version.task, version.number): version.digest for version in store.versions()}
    for task, number in there.keys() - digests.keys():
        yield f"{task}:{number} is listed, and nobody published it"


def check_content(events: Sequence[Event]) -> Iterator[str]:
    """The same content is the same version, until that is purged."""
    there: dict[tuple[str, str | None], int | None] = {}
    for event in events:
        if event.action == "publish":
            known = there.setdefault((event.subject, event.digest), event.version)
            if known != event.version:
                yield f"{event.subject}:{event.version} has the content of version {known}, which was there"
        elif event.action == "purge":
            there = {
                place: version
                for place, version in there.items()
                if (place[0], version) != (event.subject, event.version)
            }


def check_aliases(store: Store, events: Sequence[Event]) -> Iterator[str]:
    """Each move starts where the one before it ended, and the last one is what the alias names now."""
    current: dict[tuple[str, str], int | None] = {}
    for event in events:
        place = (event.subject, event.alias or "")
        if event.action == "alias":
            before = (event.details or {}).get("from")
            if before != current.get(place):
                yield f"event {event.number} moves {place} from {before}, which was at {current.get(place)}"
            current[place] = event.version
        elif event.action == "alias-rm":
            current[place] = None
    for task in {task for task, _ in current}:
        expected = {alias: version for (name, alias), version in current.items() if name == task and version}
        if store.aliases(task) != expected:
            yield f"{task} has aliases {store.aliases(task)}, its history ends at {expected}"


def check_rollbacks(events: Sequence[Event]) -> Iterator[str]:
    """Each rollback goes where the history up to it leads, to a version that is there."""
    there: dict[str, set[int]] = defaultdict(set)
    before: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.action in ("publish", "restore"):
            there[event.subject].add(event.version or 0)
        elif event.action == "rm":
            there[event.subject].remove(event.version or 0)
        elif event.action == "alias" and (event.details or {}).get("rollback"):
            target = rollback_target(before[event.subject], event.alias or "", there[event.subject])
            if event.version != target:
                yield f"event {event.number} rolls {event.alias} back to {event.version}, it was to be {target}"
        before[event.subject].append(event)


def check_moves(events: Sequence[Event], outcomes: Sequence[OperationResult]) -> Iterator[str]:
    """Each acknowledged move was made by that process in that time, or the alias named the version already."""
    made = defaultdict(list)
    for event in events:
        if event.action == "alias":
            made[event.actor, event.subject, event.alias, event.version].append(seconds(event))
    spans = alias_spans(events)
    for outcome in outcomes:
        for alias in outcome.moved:
            own = made[outcome.worker, outcome.task, alias, outcome.version]
            if not any(within(outcome, at) for at in own) and not named(spans, outcome, alias):
                yield f"{outcome.worker} was told that {outcome.task}@{alias} is {outcome.version}: it never was, then"


def check_reads(events: Sequence[Event], outcomes: Sequence[OperationResult]) -> Iterator[str]:
    """At some moment between request and answer, the alias named the version that was answered (None: nothing)."""
    spans = alias_spans(events)
    for outcome in outcomes:
        if outcome.kind == "resolve" and not named(spans, outcome, outcome.alias or ""):
            yield f"{outcome.worker} read {outcome.task}@{outcome.alias} as {outcome.version}: it was not, then"


def check_authors(events: Sequence[Event], outcomes: Sequence[OperationResult]) -> Iterator[str]:
    """Every event of a process falls within an operation of that process that did not fail."""
    asked = defaultdict(list)
    for outcome in outcomes:
        asked[outcome.worker].append(outcome)
    for event in events:
        times = [outcome for outcome in asked.get(event.actor or "", ()) if within(outcome, seconds(event))]
        if event.actor in asked and not any(outcome.error is None for outcome in times):
            yield f"event {event.number} ({event.action} of {event.subject}) of {event.actor} answers no request"


def check_rebuilt(store: Store, events: Sequence[Event]) -> Iterator[str]:
    """A catalogue that is rebuilt from the journal and the manifests is the same."""
    with tempfile.TemporaryDirectory() as scratch:
        url = f"sqlite:///{scratch}/catalogue.sqlite"
        yield from rebuild(store.url, catalogue=url).problems
        with Store.open(store.url, catalogue=url) as again:
            if list(again.queries.history()) != events:
                yield "the journal is not the history"
            for ask in (Queries.all_aliases, Queries.all_tags, lambda reader: reader.versions(removed=True)):
                if set(ask(again.queries)) != set(ask(store.queries)):
                    yield f"the catalogue and the one rebuilt differ in {ask.__name__}"


def alias_spans(events: Sequence[Event]) -> dict[tuple[str, str], list[Span]]:
    """Return for each alias the versions that it named and when, oldest first.

    A time is taken inside the transaction, so a reader may see the old value until the next writer has its turn.
    """
    batches = sorted({event.batch or event.number: seconds(event) for event in events}.items())
    after = {batch: later for (batch, _), (_, later) in itertools.pairwise([*batches, (0, math.inf)])}
    spans: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for event in events:
        if event.action in ("alias", "alias-rm"):
            found = spans[event.subject, event.alias or ""]
            if found:
                found[-1] = Span(found[-1].version, found[-1].start_s, after[event.batch or event.number])
            found.append(Span(event.version if event.action == "alias" else None, seconds(event), math.inf))
    return spans


def named(spans: Mapping[tuple[str, str], list[Span]], outcome: OperationResult, alias: str) -> bool:
    return any(
        span.version == outcome.version
        and span.start_s <= outcome.ended_s
        and outcome.started_s <= span.end_s + CLOCK_S
        for span in spans.get((outcome.task, alias), ())
    )


def within(outcome: OperationResult, at: float) -> bool:
    return outcome.started_s - CLOCK_S <= at <= outcome.ended_s


def seconds(event: Event) -> float:
    return datetime.fromisoformat(event.at).timestamp()


def tally(outcomes: Sequence[OperationResult]) -> dict[str, dict[str, int]]:
    """Count the answers, by operation."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        counts[outcome.kind][outcome.error or "done"] += 1
    return {kind: dict(found) for kind, found in sorted(counts.items())}
