"""Is everything still what it was when it was published?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial

from store.errors import FormatError, IntegrityError
from store.events import GENESIS, Event, State
from store.journal import Journal, encode
from store.layout import BLOBS, blob_key
from store.manifests import entry_of
from store.reader import Listed, Reader, VersionRow
from store.records import Blob
from store.shelf import Shelf
from store.tables import REMEDY, differences
from store.uses import read_backbone_record, read_manifest, uses

WRONG_KIND = (TypeError, ValueError, KeyError, AttributeError)  # SQLite keeps any kind of value in any column
ALL = -(1 << 63)
LOOKS = 3  # at a store that others change meanwhile, before what is found is believed


@dataclass(frozen=True)
class Finding:
    """One fault: the file, what it is for (empty where nothing names it), and a line that ends with the remedy."""

    path: str
    used_by: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        return f"{', '.join(self.used_by) or 'named by nothing'}: {self.problem}"


def audit(shelf: Shelf, journal: Journal, *, place: str, metadata_only: bool, quarantine: bool) -> list[Finding]:
    """Follow the history from its start, compare it with every table and the journal, read every manifest and record,
    and unless `metadata_only` hash every blob, named or not. `place` is where the catalogue is.

    A version that is purged and collected while we look is no damage: where others were at work, look again.
    """
    findings: list[Finding] = []
    for _ in range(LOOKS):
        before = _last_event(shelf)
        findings = [*_look(shelf, journal, place, metadata_only=metadata_only, quarantine=quarantine)]
        if not findings or quarantine or _last_event(shelf) == before:
            break
    return findings


def _look(shelf: Shelf, journal: Journal, place: str, *, metadata_only: bool, quarantine: bool) -> Iterator[Finding]:
    for problem in shelf.catalogue_problems():
        yield Finding(place, (), f"the catalogue {place} is damaged ({problem}): {REMEDY}")
    mend, state = not shelf.read_only, State()
    with shelf.reader.connect() as select:
        reader = Reader.within(select)
        damaged: set[str] = set()
        if not metadata_only:
            for finding in _guarded(_check_blobs(shelf, reader, quarantine=quarantine), place):
                damaged.add(finding.path)
                yield finding
        yield from _guarded(_check_history(reader, journal, state, place, mend=mend), place)
        said = (Finding(place, (owner,), problem) for owner, problem in differences(state, reader))
        yield from _guarded(said, place)
        yield from _guarded(_check_backbones(shelf, reader, place, damaged), place)
        yield from _guarded(_check_versions(shelf, reader, place, damaged), place)
    yield from _guarded(_check_end(journal), place)  # outside the snapshot: a writer may have gone on since


def _guarded(findings: Iterator[Finding], place: str) -> Iterator[Finding]:
    """Tell what cannot even be read of the catalogue, and go on with what else can be checked."""
    try:
        yield from findings
    except (IntegrityError, FormatError) as error:
        yield Finding(place, (), str(error))
    except WRONG_KIND as error:
        problem = f"the catalogue {place} holds a value of a wrong kind ({ascii(str(error))[:200]}): {REMEDY}"
        yield Finding(place, (), problem)


def _last_event(shelf: Shelf) -> Event | str | None:
    try:
        return shelf.reader.event()
    except FormatError as error:
        return str(error)


def _check_blobs(shelf: Shelf, reader: Reader, *, quarantine: bool) -> Iterator[Finding]:
    named: defaultdict[Blob, list[str]] = defaultdict(list)
    for use in uses(reader, shelf.blobs):
        named[use.blob].append(str(use))
    known = {blob.sha256 for blob in named}
    for blob in named:
        yield from _check_blob(shelf, blob, tuple(named[blob]), quarantine=quarantine)
    for file in shelf.backend.walk(BLOBS):
        if file.sha256 is not None and file.sha256 not in known:
            yield from _check_blob(shelf, Blob(file.sha256, file.nbytes), (), quarantine=quarantine)


def _check_blob(shelf: Shelf, blob: Blob, used_by: tuple[str, ...], *, quarantine: bool) -> Iterator[Finding]:
    problem = _problem(partial(shelf.blobs.get, blob))
    if problem is None or (not used_by and shelf.backend.size(blob_key(blob.sha256)) is None):
        return
    moved = shelf.blobs.quarantine(blob) if quarantine else None
    aside = f"; set aside as {shelf.backend.locate(moved)}" if moved else ""
    yield Finding(shelf.blobs.locate(blob), used_by, problem + aside)


def _check_history(reader: Reader, journal: Journal, state: State, place: str, *, mend: bool) -> Iterator[Finding]:
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


def _check_backbones(shelf: Shelf, reader: Reader, place: str, damaged: Container[str]) -> Iterator[Finding]:
    """Read every record, and compare what the catalogue keeps of it."""
    blobs = reader.backbone_blobs()
    for row in reader.backbones():
        record = Blob(row.record, row.record_nbytes)
        if shelf.blobs.locate(record) in damaged:
            continue
        owner = f"backbone {row.name}"
        try:
            weights = read_backbone_record(shelf.blobs, row).weights
        except (IntegrityError, FormatError) as error:
            yield Finding(place, (owner,), str(error))
            continue
        if {blob for name, blob in blobs if name == row.name} != {record, weights} - {None}:
            yield Finding(place, (owner,), _disagreement("record", owner))


def _check_versions(shelf: Shelf, reader: Reader, place: str, damaged: Container[str]) -> Iterator[Finding]:
    """Read every manifest, and compare what the catalogue keeps of it, a task at a time: a store may hold more than
    memory should.
    """
    for task in reader.all_tasks():
        listed = {found.version: found for found in reader.listed(task, removed=True)}
        names = reader.names_of(task)
        for row in reader.versions(task, removed=True):
            if shelf.blobs.locate(row.manifest) in damaged:
                continue
            problem = _version_problem(shelf, row, listed.get(row.version), names.get(row.version, set()))
            if problem:
                yield Finding(place, (f"{row.task}:{row.version}",), problem)
        for number in sorted(names.keys() - listed.keys()):
            yield Finding(place, (f"{task}:{number}",), _disagreement("history", f"{task}:{number}"))


def _version_problem(shelf: Shelf, row: VersionRow, listed: Listed | None, names: set[Blob]) -> str | None:
    try:
        manifest = read_manifest(shelf.blobs, row)
    except (IntegrityError, FormatError) as error:
        return str(error)
    entry = entry_of(manifest, row.manifest)
    shown = None if listed is None else (listed.depth, listed.blocks, listed.classes, listed.method, listed.nbytes)
    if (
        shown != (entry.depth, entry.blocks, entry.classes, entry.method, entry.nbytes)
        or row.backbone != entry.backbone
        or names != {entry.manifest, *entry.blobs}
    ):
        return _disagreement("manifest", f"{row.task}:{row.version}")
    return None


def _disagreement(what: str, owner: str) -> str:
    return (
        f"the catalogue does not say what the {what} of {owner} says: it was changed; restore it from a copy, or move "
        "it away and `onetrunk rebuild`"
    )


def _problem(read: Callable[[], object]) -> str | None:
    try:
        read()
    except (IntegrityError, FormatError) as error:
        return str(error)
    return None
