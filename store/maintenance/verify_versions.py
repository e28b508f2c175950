"""Does the catalogue say of every version what its manifest says?"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from store.adapters.manifests import entry_of
from store.catalogue.reconcile import REMEDY
from store.errors import FormatError, IntegrityError
from store.queries.reader import Queries
from store.queries.references import read_manifest
from store.queries.sql import Row
from store.records.listing import VersionRow
from store.registry.read_only_store import ReadOnlyStore

WRONG_KIND = (TypeError, ValueError, KeyError, AttributeError)  # SQLite keeps any kind of value in any column
CHUNKS = 4  # for each process: the last to end should not keep the others waiting for long


@dataclass(frozen=True)
class Finding:
    """One fault: the file, what it is for (empty where nothing names it), and a line that ends with the remedy."""

    path: str
    used_by: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        return f"{', '.join(self.used_by) or 'named by nothing'}: {self.problem}"


@dataclass(frozen=True)
class WorkerPool:
    """Other processes to look in: how many, and what opens the store there."""

    processes: int
    reopen: Callable[[], ReadOnlyStore]


def report_unreadable(findings: Iterator[Finding], place: str) -> Iterator[Finding]:
    """Tell what cannot even be read of the catalogue, and go on with what else can be checked."""
    try:
        yield from findings
    except (IntegrityError, FormatError) as error:
        yield Finding(place, (), str(error))
    except WRONG_KIND as error:
        problem = f"the catalogue {place} holds a value of a wrong kind ({ascii(str(error))[:200]}): {REMEDY}"
        yield Finding(place, (), problem)


def check_versions(
    shelf: ReadOnlyStore, reader: Queries, place: str, damaged: Collection[str], tasks: Iterable[str]
) -> Iterator[Finding]:
    """Read every manifest, and compare what the catalogue keeps of it, a task at a time: a store may hold more than
    memory should.
    """
    for task in tasks:
        rows, names = reader.described(task), reader.names_of(task)
        for row, repeated in rows:
            if damaged and shelf.blobs.locate(row.manifest) in damaged:
                continue
            problem = _version_problem(shelf, row, repeated, names.get(row.version, set()))
            if problem:
                yield Finding(place, (f"{row.task}:{row.version}",), problem)
        for number in sorted(names.keys() - {row.version for row, _ in rows}):
            yield Finding(place, (f"{task}:{number}",), disagreement("history", f"{task}:{number}"))


def _version_problem(shelf: ReadOnlyStore, row: VersionRow, repeated: Row, names: set[tuple[str, int]]) -> str | None:
    try:
        manifest = read_manifest(shelf.blobs, row)
    except (IntegrityError, FormatError) as error:
        return str(error)
    entry = entry_of(manifest, row.manifest)
    if (
        repeated != (entry.depth, entry.blocks, entry.classes, entry.method, entry.nbytes)
        or row.backbone != entry.backbone
        or names != {(blob.sha256, blob.nbytes) for blob in (entry.manifest, *entry.blobs)}
    ):
        return disagreement("manifest", f"{row.task}:{row.version}")
    return None


def disagreement(what: str, owner: str) -> str:
    return (
        f"the catalogue does not say what the {what} of {owner} says: it was changed; restore it from a copy, or move "
        "it away and `onetrunk rebuild`"
    )


@contextmanager
def checking_versions(
    shelf: ReadOnlyStore, reader: Queries, place: str, damaged: Collection[str], elsewhere: WorkerPool | None
) -> Iterator[Iterator[Finding]]:
    """Give what is found of all versions, by task; other processes look for it while the caller does something else."""
    tasks = reader.all_tasks()
    if elsewhere is None:
        yield report_unreadable(check_versions(shelf, reader, place, damaged, tasks), place)
        return
    size = len(tasks) // (elsewhere.processes * CHUNKS) + 1
    chunks = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    # New processes, as a fork has none of the threads that a bucket's client needs.
    with ProcessPoolExecutor(elsewhere.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        started = [pool.submit(_check_chunk, elsewhere.reopen, place, damaged, chunk) for chunk in chunks]
        yield chain.from_iterable(done.result() for done in started)


def _check_chunk(
    reopen: Callable[[], ReadOnlyStore], place: str, damaged: Collection[str], tasks: list[str]
) -> list[Finding]:
    with reopen() as shelf, shelf.queries.connect() as select:
        return [*report_unreadable(check_versions(shelf, Queries.within(select), place, damaged, tasks), place)]
