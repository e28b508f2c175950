"""Compare every version in the catalogue with its manifest."""

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

WRONG_TYPE = (TypeError, ValueError, KeyError, AttributeError)  # SQLite stores any type of value in any column
CHUNKS = 4  # for each process, so that none waits long for the last to end


@dataclass(frozen=True)
class Finding:
    """One fault: the file, what references it (empty for nothing), and a line that ends with the remedy."""

    path: str
    used_by: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        return f"{', '.join(self.used_by) or 'named by nothing'}: {self.problem}"


@dataclass(frozen=True)
class WorkerPool:
    """Worker processes: how many, and a function that opens the store in each."""

    processes: int
    reopen: Callable[[], ReadOnlyStore]


def report_unreadable(findings: Iterator[Finding], place: str) -> Iterator[Finding]:
    """Yield the findings; what cannot be read in the catalogue becomes a finding too, so that other checks go on."""
    try:
        yield from findings
    except (IntegrityError, FormatError) as error:
        yield Finding(place, (), str(error))
    except WRONG_TYPE as error:
        problem = f"the catalogue {place} holds a value of a wrong type ({ascii(str(error))[:200]}): {REMEDY}"
        yield Finding(place, (), problem)


def check_versions(
    store: ReadOnlyStore, queries: Queries, place: str, damaged: Collection[str], tasks: Iterable[str]
) -> Iterator[Finding]:
    """Read every manifest and compare the catalogue with it, one task at a time to bound memory."""
    for task in tasks:
        rows, blobs = queries.manifest_columns(task), queries.blobs_by_version(task)
        for row, columns in rows:
            if damaged and store.blobs.locate(row.manifest) in damaged:
                continue
            problem = _version_problem(store, row, columns, blobs.get(row.version, set()))
            if problem:
                yield Finding(place, (f"{row.task}:{row.version}",), problem)
        for number in sorted(blobs.keys() - {row.version for row, _ in rows}):
            yield Finding(place, (f"{task}:{number}",), disagreement("history", f"{task}:{number}"))


def _version_problem(store: ReadOnlyStore, row: VersionRow, columns: Row, blobs: set[tuple[str, int]]) -> str | None:
    try:
        manifest = read_manifest(store.blobs, row)
    except (IntegrityError, FormatError) as error:
        return str(error)
    entry = entry_of(manifest, row.manifest)
    if (
        columns != (entry.depth, entry.blocks, entry.classes, entry.method, entry.nbytes)
        or row.backbone != entry.backbone
        or blobs != {(blob.sha256, blob.nbytes) for blob in (entry.manifest, *entry.blobs)}
    ):
        return disagreement("manifest", f"{row.task}:{row.version}")
    return None


def disagreement(source: str, owner: str) -> str:
    return (
        f"the catalogue does not say what the {source} of {owner} says: it was changed; restore it from a copy, or "
        "move it away and rebuild it with `rebuild(url)`"
    )


@contextmanager
def checking_versions(
    store: ReadOnlyStore, queries: Queries, place: str, damaged: Collection[str], workers: WorkerPool | None
) -> Iterator[Iterator[Finding]]:
    """Give the findings of all versions, by task; worker processes collect them while the block runs."""
    tasks = queries.all_tasks()
    if workers is None:
        yield report_unreadable(check_versions(store, queries, place, damaged, tasks), place)
        return
    size = len(tasks) // (workers.processes * CHUNKS) + 1
    chunks = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    # Spawned, as a forked process lacks the threads that a bucket's client needs.
    with ProcessPoolExecutor(workers.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        started = [pool.submit(_check_chunk, workers.reopen, place, damaged, chunk) for chunk in chunks]
        yield chain.from_iterable(done.result() for done in started)


def _check_chunk(
    reopen: Callable[[], ReadOnlyStore], place: str, damaged: Collection[str], tasks: list[str]
) -> list[Finding]:
    with reopen() as store, store.queries.connect() as select:
        return [*report_unreadable(check_versions(store, Queries.within(select), place, damaged, tasks), place)]
