"""Is everything still what it was when it was published?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from store.backends.layout import BLOBS, blob_key
from store.catalogue.reconcile import REMEDY, differences
from store.catalogue.replay import State
from store.errors import FormatError, IntegrityError
from store.maintenance.verify_versions import Finding, WorkerPool, checking_versions, disagreement, report_unreadable
from store.queries.reader import Queries
from store.queries.references import read_backbone_record, references
from store.records.blob import Blob
from store.records.events import GENESIS, Event
from store.registry.journal import Journal, encode
from store.registry.read_only_store import ReadOnlyStore
from store.registry.store import Store

ALL = -(1 << 63)
LOOKS = 3  # at a store that others change meanwhile, before what is found is believed


def verify(shelf: Store, *, metadata_only: bool = False, quarantine: bool = False, processes: int = 0) -> list[Finding]:
    """Follow the history from its start, compare it with every table and the journal, read every manifest and record,
    and unless `metadata_only` hash every blob, named or not.

    `quarantine` sets damaged blobs aside, so that what they were can be put again; nothing is ever deleted.
    With `processes`, that many others read the manifests meanwhile: they import the caller's main module, which
    must be guarded as `multiprocessing` says.

    A version that is purged and collected while we look is no damage: where others were at work, look again.
    """
    if quarantine:
        shelf.check_writable()
    journal, place = shelf.journal, shelf.catalogue.database.place
    reopen = partial(type(shelf).open, shelf.url, catalogue=shelf.catalogue.database.url)
    elsewhere = WorkerPool(processes, reopen) if processes else None
    findings: list[Finding] = []
    for _ in range(LOOKS):
        before = _last_event(shelf)
        with _checking_file(shelf, place, beside=elsewhere is not None) as of_file:
            others = [*_look(shelf, journal, place, elsewhere, metadata_only=metadata_only, quarantine=quarantine)]
            findings = [*of_file(), *others]
        if not findings or quarantine or _last_event(shelf) == before:
            break
    return findings


def _look(
    shelf: ReadOnlyStore,
    journal: Journal,
    place: str,
    elsewhere: WorkerPool | None,
    *,
    metadata_only: bool,
    quarantine: bool,
) -> Iterator[Finding]:
    mend, state = not shelf.read_only, State()
    with shelf.queries.connect() as select:
        reader = Queries.within(select)
        damaged: set[str] = set()
        if not metadata_only:
            for finding in report_unreadable(_check_blobs(shelf, reader, quarantine=quarantine), place):
                damaged.add(finding.path)
                yield finding
        with checking_versions(shelf, reader, place, damaged, elsewhere) as of_versions:
            yield from report_unreadable(_check_history(reader, journal, state, place, mend=mend), place)
            said = (Finding(place, (owner,), problem) for owner, problem in differences(state, reader))
            yield from report_unreadable(said, place)
            yield from report_unreadable(_check_backbones(shelf, reader, place, damaged), place)
            yield from of_versions
    yield from report_unreadable(_check_end(journal), place)  # outside the snapshot: a writer may have gone on since


@contextmanager
def _checking_file(shelf: ReadOnlyStore, place: str, *, beside: bool) -> Iterator[Callable[[], list[Finding]]]:
    """Give what tells what is wrong with the catalogue's file; a thread of its own looks meanwhile if `beside`."""
    if not beside:
        found = _check_file(shelf, place)
        yield lambda: found
        return
    with ThreadPoolExecutor(max_workers=1) as pool:  # SQLite reads the whole file, and lets Python run

        def look() -> list[Finding]:
            try:
                return _check_file(shelf, place)
            finally:
                shelf.release_connections()

        yield pool.submit(look).result


def _check_file(shelf: ReadOnlyStore, place: str) -> list[Finding]:
    problems = shelf.catalogue_problems()
    return [Finding(place, (), f"the catalogue {place} is damaged ({problem}): {REMEDY}") for problem in problems]


def _last_event(shelf: ReadOnlyStore) -> Event | str | None:
    try:
        return shelf.queries.event()
    except FormatError as error:
        return str(error)


def _check_blobs(shelf: ReadOnlyStore, reader: Queries, *, quarantine: bool) -> Iterator[Finding]:
    named: defaultdict[Blob, list[str]] = defaultdict(list)
    for use in references(reader, shelf.blobs):
        named[use.blob].append(str(use))
    known = {blob.sha256 for blob in named}
    for blob in named:
        yield from _check_blob(shelf, blob, tuple(named[blob]), quarantine=quarantine)
    for file in shelf.backend.list(BLOBS):
        if file.sha256 is not None and file.sha256 not in known:
            yield from _check_blob(shelf, Blob(file.sha256, file.nbytes), (), quarantine=quarantine)


def _check_blob(shelf: ReadOnlyStore, blob: Blob, used_by: tuple[str, ...], *, quarantine: bool) -> Iterator[Finding]:
    problem = _problem(partial(shelf.blobs.get, blob))
    if problem is None or (not used_by and shelf.backend.size(blob_key(blob.sha256)) is None):
        return
    moved = shelf.blobs.quarantine(blob) if quarantine else None
    aside = f"; set aside as {shelf.backend.locate(moved)}" if moved else ""
    yield Finding(shelf.blobs.locate(blob), used_by, problem + aside)


def _check_history(reader: Queries, journal: Journal, state: State, place: str, *, mend: bool) -> Iterator[Finding]:
    """Check the chain, add it up in `state`, and compare it with the journal, transaction by transaction."""
    previous = GENESIS
    batch: list[Event] = []
    missing: list[Event] = []  # the first events of transactions that the journal lacks, since the last that it has
    if mend:
        journal.mend()
    for number, event in enumerate(reader.history(since=ALL), start=1):
        problem = _chain_problem(event, number, previous) or _problem(partial(state.apply, event))
        if problem:
            yield Finding(place, (str(event.subject),), problem)
            return
        if batch and (event.batch is None or event.batch != batch[0].batch):
            yield from _check_entry(journal, batch, missing, mend=mend)
            batch = []
        batch.append(event)
        previous = event.sha256
    if batch:
        yield from _check_entry(journal, batch, missing, mend=mend)
    if mend:  # else the last ones may be those of writers that are at work, or died: whoever may write writes them
        yield from (_missing(journal, first) for first in missing)


def _check_end(journal: Journal) -> Iterator[Finding]:
    journal.check_last()
    yield from ()


def _chain_problem(event: Event, number: int, previous: str) -> str | None:
    if event.number == number and event.previous == previous:
        return None
    return f"history breaks before event {event.number}: it was changed; restore the catalogue from a copy"


def _check_entry(journal: Journal, events: list[Event], missing: list[Event], *, mend: bool) -> Iterator[Finding]:
    first, kept = events[0], journal.read(events[0].number)
    if kept is None:
        missing.append(first)
        return
    for lost in missing:
        yield _missing(journal, lost)
        if mend:
            journal.mend(lost.number)
    missing.clear()
    if kept != encode(events):
        yield _journal_finding(
            journal,
            first,
            f"is not what the history says: the catalogue was changed if `history {first.subject}` looks wrong, else "
            "restore this file from a copy, or remove it and run `onetrunk verify` again",
        )


def _missing(journal: Journal, first: Event) -> Finding:
    return _journal_finding(journal, first, "is missing: run `onetrunk verify` again, which writes it anew")


def _journal_finding(journal: Journal, first: Event, problem: str) -> Finding:
    return Finding(journal.locate(first.number), (str(first.subject),), f"journal of event {first.number} {problem}")


def _check_backbones(shelf: ReadOnlyStore, reader: Queries, place: str, damaged: Collection[str]) -> Iterator[Finding]:
    """Read every record, and compare what the catalogue keeps of it."""
    blobs = reader.backbone_blobs()
    for row in reader.backbones():
        record = Blob(row.record, row.record_nbytes)
        if damaged and shelf.blobs.locate(record) in damaged:
            continue
        owner = f"backbone {row.name}"
        try:
            weights = read_backbone_record(shelf.blobs, row).weights
        except (IntegrityError, FormatError) as error:
            yield Finding(place, (owner,), str(error))
            continue
        if {blob for name, blob in blobs if name == row.name} != {record, weights} - {None}:
            yield Finding(place, (owner,), disagreement("record", owner))


def _problem(read: Callable[[], object]) -> str | None:
    try:
        read()
    except (IntegrityError, FormatError) as error:
        return str(error)
    return None
