"""Verify a store: is everything still what it was when it was published?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from store.backends.layout import BLOBS, blob_key
from store.catalogue.reconcile import REMEDY, differences
from store.catalogue.replay import CatalogueState
from store.errors import FormatError, IntegrityError
from store.maintenance.verify_versions import Finding, WorkerPool, checking_versions, disagreement, report_unreadable
from store.queries.reader import Queries
from store.queries.references import BlobReference, read_backbone_record, references
from store.records.blob import Blob
from store.records.bounds import check_number
from store.records.events import GENESIS, Event
from store.registry.journal import Journal, encode
from store.registry.read_only_store import ReadOnlyStore
from store.registry.store import Store

ALL = -(1 << 63)
MAX_PROCESSES = 1024
ATTEMPTS = 3  # at a store that others change meanwhile, before findings are reported


def verify(store: Store, *, metadata_only: bool = False, quarantine: bool = False, processes: int = 0) -> list[Finding]:
    """Replay the history, compare it with every table and the journal, read every manifest and backbone record, and
    unless `metadata_only` hash every blob, referenced or not.

    `quarantine` sets damaged blobs aside, so that they can be written again; nothing is ever deleted.
    With `processes`, so many other processes read the manifests: they import the caller's main module, which must be
    guarded as `multiprocessing` requires.

    A version that is purged and collected meanwhile is not damaged: where others changed the store, verify again.
    """
    check_number("processes", processes, most=MAX_PROCESSES)
    if quarantine or not isinstance(store, Store):  # a reader has no journal to compare with
        store.check_writable()
    journal, location = store.journal, store.catalogue.database.location
    reopen = partial(type(store).open, store.url, catalogue=store.catalogue.database.url)
    workers = WorkerPool(processes, reopen) if processes else None
    findings: list[Finding] = []
    for _ in range(ATTEMPTS):
        before = _last_event(store)
        with _checking_file(store, location, in_thread=workers is not None) as file_findings:
            others = [*_check(store, journal, location, workers, metadata_only=metadata_only, quarantine=quarantine)]
            findings = [*file_findings(), *others]
        if not findings or quarantine or _last_event(store) == before:
            break
    return findings


def _check(
    store: ReadOnlyStore,
    journal: Journal,
    location: str,
    workers: WorkerPool | None,
    *,
    metadata_only: bool,
    quarantine: bool,
) -> Iterator[Finding]:
    repair, state = not store.read_only, CatalogueState()
    with store.queries.connect() as select:
        queries = Queries.within(select)
        damaged: set[str] = set()
        if not metadata_only:
            for finding in report_unreadable(_check_blobs(store, queries, quarantine=quarantine), location):
                damaged.add(finding.path)
                yield finding
        with checking_versions(store, queries, location, damaged, workers) as version_findings:
            yield from report_unreadable(_check_history(queries, journal, state, location, repair=repair), location)
            different = (Finding(location, (owner,), problem) for owner, problem in differences(state, queries))
            yield from report_unreadable(different, location)
            yield from report_unreadable(_check_backbones(store, queries, location, damaged), location)
            yield from version_findings
    # Outside the snapshot: a writer may have added events since.
    yield from report_unreadable(_check_end(journal), location)


@contextmanager
def _checking_file(store: ReadOnlyStore, location: str, *, in_thread: bool) -> Iterator[Callable[[], list[Finding]]]:
    """Give a function that returns the findings of the catalogue's file; `in_thread` checks it during the block."""
    if not in_thread:
        findings = _check_file(store, location)
        yield lambda: findings
        return
    with ThreadPoolExecutor(max_workers=1) as pool:  # SQLite reads the whole file without the GIL

        def check() -> list[Finding]:
            try:
                return _check_file(store, location)
            finally:
                store.release_connections()

        yield pool.submit(check).result


def _check_file(store: ReadOnlyStore, location: str) -> list[Finding]:
    problems = store.catalogue_problems()
    return [Finding(location, (), f"the catalogue {location} is damaged ({problem}): {REMEDY}") for problem in problems]


def _last_event(store: ReadOnlyStore) -> Event | str | None:
    try:
        return store.queries.event()
    except FormatError as error:
        return str(error)


def _check_blobs(store: ReadOnlyStore, queries: Queries, *, quarantine: bool) -> Iterator[Finding]:
    uses: defaultdict[Blob, list[BlobReference]] = defaultdict(list)
    for reference in references(queries, store.blobs):
        uses[reference.blob].append(reference)
    known = {blob.sha256 for blob in uses}
    for blob in uses:
        yield from _check_blob(store, blob, uses[blob], quarantine=quarantine)
    for file in store.backend.list(BLOBS):
        if file.sha256 is not None and file.sha256 not in known:
            yield from _check_blob(store, Blob(file.sha256, file.nbytes), (), quarantine=quarantine)


def _check_blob(
    store: ReadOnlyStore, blob: Blob, used_by: Sequence[BlobReference], *, quarantine: bool
) -> Iterator[Finding]:
    second_digests = {reference.blake3 for reference in used_by if reference.blake3 is not None}
    problem = _problem(partial(store.blobs.check, blob, *second_digests))
    if problem is None or (not used_by and store.backend.size(blob_key(blob.sha256)) is None):
        return
    moved = store.blobs.quarantine(blob) if quarantine else None
    aside = f"; set aside as {store.backend.locate(moved)}" if moved else ""
    yield Finding(store.blobs.locate(blob), tuple(map(str, used_by)), problem + aside)


def _check_history(
    queries: Queries, journal: Journal, state: CatalogueState, location: str, *, repair: bool
) -> Iterator[Finding]:
    """Check the chain, replay it into `state`, and compare it with the journal, transaction by transaction."""
    previous = GENESIS
    batch: list[Event] = []
    missing: list[Event] = []  # first events of transactions that the journal lacks, after the last that it has
    if repair:
        journal.repair()
    for number, event in enumerate(queries.history(since=ALL), start=1):
        problem = _chain_problem(event, number, previous) or _problem(partial(state.apply, event))
        if problem:
            yield Finding(location, (str(event.subject),), problem)
            return
        if batch and (event.batch is None or event.batch != batch[0].batch):
            yield from _check_entry(journal, batch, missing, repair=repair)
            batch = []
        batch.append(event)
        previous = event.sha256
    if batch:
        yield from _check_entry(journal, batch, missing, repair=repair)
    if repair:  # in a read-only store, the last ones may be of writers still at work
        yield from (_missing(journal, first) for first in missing)


def _check_end(journal: Journal) -> Iterator[Finding]:
    journal.check_last()
    yield from ()


def _chain_problem(event: Event, number: int, previous: str) -> str | None:
    if event.number == number and event.previous == previous:
        return None
    return f"history breaks before event {event.number}: it was changed; restore the catalogue from a copy"


def _check_entry(journal: Journal, events: list[Event], missing: list[Event], *, repair: bool) -> Iterator[Finding]:
    first, entry = events[0], journal.read(events[0].number)
    if entry is None:
        missing.append(first)
        return
    for lost in missing:
        yield _missing(journal, lost)
        if repair:
            journal.repair(lost.number)
    missing.clear()
    if entry != encode(events):
        yield _journal_finding(
            journal,
            first,
            "is not what the history says: the catalogue was changed if `store.history(task)` looks wrong, else "
            "restore this file from a copy, or remove it and run `verify(store)` again",
        )


def _missing(journal: Journal, first: Event) -> Finding:
    return _journal_finding(journal, first, "is missing: run `verify(store)` again, which has written it")


def _journal_finding(journal: Journal, first: Event, problem: str) -> Finding:
    return Finding(journal.locate(first.number), (str(first.subject),), f"journal of event {first.number} {problem}")


def _check_backbones(
    store: ReadOnlyStore, queries: Queries, location: str, damaged: Collection[str]
) -> Iterator[Finding]:
    """Read every backbone record, and compare the catalogue with it."""
    blobs = queries.backbone_blobs()
    for row in queries.backbones():
        record = Blob(row.record, row.record_nbytes)
        if damaged and store.blobs.locate(record) in damaged:
            continue
        owner = f"backbone {row.name}"
        try:
            weights = read_backbone_record(store.blobs, row).weights
        except (IntegrityError, FormatError) as error:
            yield Finding(location, (owner,), str(error))
            continue
        if {blob for name, blob in blobs if name == row.name} != {record, weights} - {None}:
            yield Finding(location, (owner,), disagreement("record", owner))


def _problem(read: Callable[[], object]) -> str | None:
    try:
        read()
    except (IntegrityError, FormatError) as error:
        return str(error)
    return None
