"""Everything that an account adds up, read from the catalogue and the backend at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from store.accounting.growth import Moment
from store.accounting.ownership import Ownership, Place, Reference, ownership_of
from store.accounting.places import Files, count_files
from store.accounting.rows import Problem
from store.backends.layout import blob_key
from store.errors import OnetrunkError, StorageError
from store.queries.reader import Queries
from store.queries.references import read_backbone_record
from store.records.backbone import BackboneRecord
from store.records.events import BackboneRow
from store.records.listing import VersionSize
from store.registry.read_only_store import ReadOnlyStore

ATTEMPTS = 3  # at a store that others change meanwhile
MOST_PROBED = 1000  # blobs that are missing from the listing and are looked for one by one


@dataclass(frozen=True)
class Seen:
    """The catalogue in one snapshot, and the files listed after it; `removed` are the blobs of removed versions.

    `owners` has the blobs of versions, removed ones too, and of backbones by name, for the history.
    """

    store: str
    versions: Sequence[VersionSize]
    ownership: Ownership
    removed: frozenset[str]
    owners: Mapping[Place | str, Sequence[str]]
    backbone_rows: Sequence[BackboneRow]
    backbone_blobs: Mapping[str, Mapping[str, int]]
    records: Mapping[str, BackboneRecord]
    moments: Sequence[Moment]
    files: Files
    changed: bool
    problems: tuple[Problem, ...]

    @property
    def live(self) -> frozenset[str]:
        return frozenset(self.ownership.users_of) | frozenset(self.ownership.of_backbones)


def look(store: ReadOnlyStore) -> Seen:
    """Read all of it, and again where another process has changed the store meanwhile."""
    try:
        for _ in range(ATTEMPTS):
            seen, last = _look(store)
            if store.queries.event() == last:
                return seen
        return replace(seen, changed=True)
    finally:
        store.release_connections()


def _look(store: ReadOnlyStore) -> tuple[Seen, object]:
    with store.queries.connect() as select:
        queries = Queries.within(select)
        last, identity = queries.event(), queries.identity()
        versions = queries.version_sizes()
        rows = queries.backbones()
        moments = [Moment(*row) for row in queries.moves()]
        by_backbone: dict[str, dict[str, int]] = {row.name: {} for row in rows}
        for name, blob in queries.backbone_blobs():
            by_backbone[name][blob.sha256] = blob.nbytes
        there, gone = _divided(queries)
    leased = _leased(store)
    # Close the catalogue before files are counted: its log is then part of its file.
    store.release_connections()
    records, problems = _records(store, rows)
    hidden: list[str] = []
    files = count_files(store.backend.list(unseen=hidden.append))
    leased |= _leased(store)  # a publish may have begun since, whose blobs no collection would free
    of_backbones = {digest: nbytes for blobs in by_backbone.values() for digest, nbytes in blobs.items()}
    ownership = ownership_of(there, present=files.blobs, of_backbones=of_backbones, leased=leased)
    owners: dict[Place | str, Sequence[str]] = {name: tuple(blobs) for name, blobs in by_backbone.items()}
    removed = ownership_of(gone, present=files.blobs, of_backbones={}, leased=())
    owners.update(list(ownership.blobs_of.items()))
    owners.update(list(removed.blobs_of.items()))
    problems += [Problem(place, "cannot be listed: what is in it is not counted", 0) for place in hidden]
    problems += _missing(store, ownership, hidden=bool(hidden))
    return Seen(
        store=identity or "",
        versions=versions,
        ownership=replace(ownership, sizes={**removed.sizes, **ownership.sizes}),
        removed=frozenset(removed.users_of),
        owners=owners,
        backbone_rows=rows,
        backbone_blobs=by_backbone,
        records=records,
        moments=moments,
        files=files,
        changed=False,
        problems=tuple(problems),
    ), last


def _divided(queries: Queries) -> tuple[list[Reference], list[Reference]]:
    """Return the references of versions that are there, and of removed ones; those of one version share its place."""
    removed = queries.removed_versions()
    there: list[Reference] = []
    gone: list[Reference] = []
    last: tuple[str, int] | None = None
    for task, version, digest, nbytes in queries.blob_references():
        if last is None or version != last[1] or task != last[0]:
            last = (task, version)
            chosen = gone if last in removed else there
        chosen.append((last, digest, nbytes))
    return there, gone


def _leased(store: ReadOnlyStore) -> set[str]:
    return {digest for lease in store.leases() for digest in lease.digests}


def _records(store: ReadOnlyStore, rows: Sequence[BackboneRow]) -> tuple[dict[str, BackboneRecord], list[Problem]]:
    """Return the records that can be read, by fingerprint, and what is wrong with the others."""
    records: dict[str, BackboneRecord] = {}
    problems: list[Problem] = []
    for row in rows:
        try:
            records[row.fingerprint] = read_backbone_record(store.blobs, row)
        except OnetrunkError as error:
            problems.append(Problem(f"backbone {row.name}", str(error), row.record_nbytes))
    return records, problems


def _missing(store: ReadOnlyStore, ownership: Ownership, *, hidden: bool) -> list[Problem]:
    """Return the referenced blobs that have no file, or one of another size than the catalogue says."""
    problems = []
    present = ownership.present
    wrong = sorted(digest for digest, nbytes in ownership.sizes.items() if present.get(digest) != nbytes)
    for number, digest in enumerate(digest for digest in wrong if digest not in present):
        probed = hidden and number < MOST_PROBED
        problems.append(Problem(_named(store, ownership, digest), _absence(store, digest, probed=probed), 0))
    for digest in wrong:
        found = present.get(digest)
        if found is not None:
            problem = f"has {found} bytes, expected {ownership.sizes[digest]}: see `verify(store)`"
            problems.append(Problem(_named(store, ownership, digest), problem, found))
    return problems


def _absence(store: ReadOnlyStore, digest: str, *, probed: bool) -> str:
    if probed:
        try:
            store.backend.size(blob_key(digest))
        except StorageError:
            return "cannot be seen by this user: its bytes are not counted"
    return "is missing: see `verify(store)`"


def _named(store: ReadOnlyStore, ownership: Ownership, digest: str) -> str:
    places = ownership.users_of.get(digest, [])
    owner = f" of {places[0][0]}:{places[0][1]}" if places else " of a backbone"
    return store.backend.locate(blob_key(digest)) + owner
