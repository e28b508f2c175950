"""The rows of versions and tasks: their bytes by part, what they share, and what deleting them frees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from store.accounting.counterfactuals import ComparedTask, saved_by_cut
from store.accounting.facts import FactsCache, FactsReader, NamedBlob, VersionFacts
from store.accounting.flops import block_flops, saved_by_width
from store.accounting.ownership import Ownership, Place, Totals
from store.accounting.rows import PARTS, Problem, TaskReport, VersionReport
from store.accounting.seen import Seen
from store.backends.base import Backend
from store.errors import OnetrunkError
from store.records.backbone import BackboneRecord
from store.records.listing import VersionSize
from store.records.refs import tenant_of
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Counted:
    """A row for each version, and the facts of those whose files could be read."""

    rows: tuple[VersionReport, ...]
    facts: Mapping[Place, VersionFacts]
    problems: tuple[Problem, ...]

    @property
    def payload_nbytes(self) -> int:
        """The tensors of all versions, those of one blob once."""
        tensors = {facts.adapter: facts.adapter_tensors.payload_nbytes for facts in self.facts.values()}
        tensors |= {facts.head: facts.head_tensors.payload_nbytes for facts in self.facts.values()}
        return sum(tensors.values())


def count_versions(seen: Seen, backend: Backend, known: FactsCache) -> Counted:
    """Read the facts of each version, and make its row; where they cannot be read, its parts are unknown."""
    facts: dict[Place, VersionFacts] = {}
    problems: list[Problem] = []
    totals = seen.ownership.own
    saved_by = {fingerprint: _Operations(record) for fingerprint, record in seen.records.items()}
    leased = seen.ownership.leased
    rows = []
    for version, read in zip(seen.versions, read_facts(seen.versions, backend, known), strict=True):
        place = (version.task, version.version)
        if isinstance(read, VersionFacts):
            facts[place] = read
            found: VersionFacts | None = read
        else:
            problem = f"its bytes cannot be divided: {read}"
            problems.append(Problem(f"{version.task}:{version.version}", problem, version.nbytes))
            found = None
        rows.append(
            _row(
                version,
                found,
                totals.get(place, Totals()),
                saved_by.get(version.fingerprint),
                leased=version.digest in leased,
            )
        )
    return Counted(tuple(rows), facts, tuple(problems))


def read_facts(
    versions: Sequence[VersionSize], backend: Backend, known: FactsCache
) -> list[VersionFacts | OnetrunkError]:
    """Return the facts of each version or why there are none; a bucket is asked for many at once."""
    reader = FactsReader(backend, known)

    def read(version: VersionSize) -> VersionFacts | OnetrunkError:
        try:
            return reader.read(version.task, NamedBlob(version.digest, version.manifest_nbytes))
        except OnetrunkError as error:
            return error

    if not backend.remote:
        return [read(version) for version in versions]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=32) as pool:
        return list(pool.map(read, versions))


class _Operations:
    """What cuts and widths save on one backbone: its record is read once, not for each of many versions."""

    def __init__(self, record: BackboneRecord) -> None:
        self._record = record
        self._blocks, self._at_full_width = block_flops(record), saved_by_width(record, None)

    def cut(self, depth: int) -> int | None:
        return None if self._blocks is None else sum(self._blocks[depth:])

    def width(self, width: WidthIndex | None, tokens: TokenIndex | None) -> int | None:
        return self._at_full_width if width is None and tokens is None else saved_by_width(self._record, width, tokens)


def _row(
    version: VersionSize,
    facts: VersionFacts | None,
    totals: Totals,
    saved_by: _Operations | None,
    *,
    leased: bool,
) -> VersionReport:
    width, tokens = (facts.width, facts.tokens) if facts else (None, None)
    return VersionReport(  # by place: by name takes twice as long, and there are many
        version.task,
        version.version,
        tenant_of(version.task),
        version.aliases,
        leased,
        version.published_at,
        version.backbone,
        version.method,
        facts.rank if facts else None,
        facts.adapter_tensors.dtype if facts else UNKNOWN,
        version.depth,
        version.blocks,
        *_parts(version, facts),
        version.nbytes,
        totals.unique_nbytes,
        version.nbytes - totals.unique_nbytes,
        saved_by_cut(facts, version.depth, version.blocks) if facts else 0,
        version.blocks - version.depth,
        None if saved_by is None else saved_by.cut(version.depth),
        totals.freed_nbytes,
        sum(index.nbytes for index in (width, tokens) if index),
        None if saved_by is None else saved_by.width(width, tokens),
    )


def _parts(version: VersionSize, facts: VersionFacts | None) -> tuple[int, int, int, int, int, int, int]:
    """Divide what the version takes at rest as `PARTS` do; a blob that it names in two roles counts in the first."""
    nbytes = version.nbytes - version.manifest_nbytes
    if facts is None:
        return 0, 0, 0, version.manifest_nbytes, 0, 0, nbytes
    digests = (version.digest, facts.adapter.sha256, facts.head.sha256, facts.config.sha256, facts.labels.sha256)
    weights, logits = facts.adapter_tensors, facts.head_tensors
    adapter, head, config, labels = (
        (True, True, True, True)
        if len(set(digests)) == len(digests)
        else [digest not in digests[:number] for number, digest in enumerate(digests) if number]
    )  # whether it is the first of its digest
    payload, logits_nbytes = adapter * weights.payload_nbytes, head * logits.payload_nbytes
    headers = adapter * weights.header_nbytes + head * logits.header_nbytes
    config_nbytes, labels_nbytes = config * facts.config.nbytes, labels * facts.labels.nbytes
    rest = nbytes - payload - logits_nbytes - headers - config_nbytes - labels_nbytes
    return payload, logits_nbytes, headers, version.manifest_nbytes, config_nbytes, labels_nbytes, rest


NBYTES = tuple(f"{part}_nbytes" for part in PARTS)


def count_tasks(rows: Sequence[VersionReport], owned: Ownership) -> tuple[TaskReport, ...]:
    """Return a row for each task, by name; the latest version is the one of the highest number."""
    by_task: dict[str, list[VersionReport]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    totals = owned.totals({place: place[0] for place in owned.blobs_of})
    return tuple(_task(by_task[task], totals[task]) for task in sorted(by_task))


SAME = (
    *("task", "tenant", "version", "backbone", "method", "dtype", "depth", "blocks", "nbytes"),
    *NBYTES,
    *("saved_by_cut_nbytes", "saved_by_cut_blocks", "saved_by_cut_flops", "width_nbytes", "saved_by_width_flops"),
)
"""What a task's row has from that of its latest version."""


def _task(rows: Sequence[VersionReport], totals: Totals) -> TaskReport:
    latest = rows[-1]
    return TaskReport(
        **{name: getattr(latest, name) for name in SAME},
        versions=len(rows),
        stored_nbytes=totals.nbytes,
        unique_nbytes=totals.unique_nbytes,
        shared_nbytes=totals.nbytes - totals.unique_nbytes,
        freed_if_deleted_nbytes=totals.freed_nbytes,
    )


def compared_tasks(
    tasks: Sequence[TaskReport],
    facts: Mapping[Place, VersionFacts],
    seen: Seen,
) -> list[ComparedTask]:
    """Return the latest version of each task that can be counted in other forms: its files and its backbone's record
    can be read.
    """
    fingerprints = {row.name: row.fingerprint for row in seen.backbone_rows}
    compared = []
    for task in tasks:
        found = facts.get((task.task, task.version))
        record: BackboneRecord | None = seen.records.get(fingerprints[task.backbone])
        if found is not None and record is not None:
            compared.append(ComparedTask(record, found, task.depth))
    return compared
