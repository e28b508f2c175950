"""The storage report: what every byte of the store is for, and what the same tasks would take in other forms."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from store.backends.base import StoredFile
from store.backends.layout import kind_of
from store.maintenance.counterfactuals import (
    Counterfactuals,
    Resident,
    TaskTensors,
    counterfactuals,
    read_tensors,
    resident,
    saved_by_cut,
)
from store.queries.references import BlobReference, backbone_references, read_backbone_record, version_references
from store.records.backbone import BackboneRecord
from store.records.blob import Blob
from store.registry.read_only_store import ReadOnlyStore

REPORT_FORMAT = 1


@dataclass(frozen=True)
class TaskReport:
    """The latest version of a task; payload + header + manifest are its bytes, and so are unique + shared.

    Payload is tensors, header what safetensors puts before them, manifest the rest: manifest, config and class names.
    Shared bytes are of blobs that another task references too. Deleting the task frees blobs that only it references.
    """

    task: str
    version: int
    versions: int
    backbone: str
    depth: int
    blocks: int
    payload_nbytes: int
    header_nbytes: int
    manifest_nbytes: int
    unique_nbytes: int
    shared_nbytes: int
    saved_by_cut_nbytes: int
    freed_if_deleted_nbytes: int


@dataclass(frozen=True)
class BackboneReport:
    """A backbone; where its weights are kept elsewhere, the store has its record alone."""

    name: str
    fingerprint: str
    source: str
    kept_elsewhere: bool
    stored_nbytes: int
    tasks: int


@dataclass(frozen=True)
class StorageReport:
    """`total = live + reclaimable + garbage + overhead`, each the sum of the sizes of files.

    Live blobs are referenced by a version or a backbone, reclaimable ones by none. Overhead is the catalogue, the
    journal and the store's identity; garbage is every other file. `quarantined` is the part of the garbage that was
    set aside as damaged; nothing deletes it. One image for each task takes `run_blocks` of `all_blocks`.
    """

    total_nbytes: int
    live_nbytes: int
    reclaimable_nbytes: int
    garbage_nbytes: int
    overhead_nbytes: int
    quarantined_nbytes: int
    garbage_files: tuple[str, ...]
    tasks: tuple[TaskReport, ...]
    backbones: tuple[BackboneReport, ...]
    counterfactuals: Counterfactuals
    resident: Resident
    run_blocks: int
    all_blocks: int

    @property
    def mean_depth(self) -> float:
        return self.run_blocks / len(self.tasks) if self.tasks else 0.0

    def to_json(self) -> dict[str, object]:
        return {"format": REPORT_FORMAT, **asdict(self), "mean_depth": self.mean_depth}


def storage_report(store: ReadOnlyStore) -> StorageReport:
    """Report on the store as it is now; each call reads the catalogue, tensor headers and file sizes again."""
    # Read the catalogue first and close it before files are counted: its log is then part of its file.
    versions = store.versions()
    backbones = [(row, read_backbone_record(store.blobs, row)) for row in store.queries.backbones()]
    records = {row.fingerprint: record for row, record in backbones}
    references = [r for row, record in backbones for r in backbone_references(row, record)]
    references += [r for v in versions for r in version_references(v.task, v.number, v.manifest_blob, v.manifest)]
    owned = _owned(references)
    latest = {version.task: version for version in versions}
    tasks = [read_tensors(store.blobs, version, records) for version in latest.values()]
    counts = Counter(version.task for version in versions)
    store.release_connections()
    sizes = _classify(store.backend.list(), {reference.blob.sha256 for reference in references})
    return StorageReport(
        total_nbytes=sum(file.nbytes for kind in sizes.values() for file in kind),
        live_nbytes=sum(file.nbytes for file in sizes["live"]),
        reclaimable_nbytes=sum(file.nbytes for file in sizes["reclaimable"]),
        garbage_nbytes=sum(file.nbytes for file in sizes["garbage"]),
        overhead_nbytes=sum(file.nbytes for file in sizes["overhead"]),
        quarantined_nbytes=sum(f.nbytes for f in sizes["garbage"] if kind_of(f.path) == "quarantine"),
        garbage_files=tuple(sorted(file.path for file in sizes["garbage"])),
        tasks=tuple(_task_report(task, counts[task.version.task], owned[task.version.task]) for task in tasks),
        backbones=tuple(_backbone_report(record, references, tasks) for record in records.values()),
        counterfactuals=counterfactuals(tasks),
        resident=resident(tasks),
        run_blocks=sum(task.version.manifest.depth for task in tasks),
        all_blocks=sum(task.record.blocks for task in tasks),
    )


def _classify(files: Iterable[StoredFile], live: set[str]) -> defaultdict[str, list[StoredFile]]:
    """Give every file exactly one kind, so that the sum of the report holds by construction."""
    kinds: defaultdict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        kind = kind_of(file.path)
        if kind == "blob":
            kind = "live" if file.sha256 in live else "reclaimable"
        kinds["garbage" if kind == "quarantine" else kind].append(file)
    return kinds


def _owned(references: list[BlobReference]) -> defaultdict[str | None, set[Blob]]:
    """Return the blobs that one task alone references, by task."""
    tasks_of: defaultdict[Blob, set[str | None]] = defaultdict(set)
    for reference in references:
        tasks_of[reference.blob].add(reference.task)
    owned: defaultdict[str | None, set[Blob]] = defaultdict(set)
    for blob, tasks in tasks_of.items():
        if len(tasks) == 1:
            owned[next(iter(tasks))].add(blob)
    return owned


def _task_report(task: TaskTensors, versions: int, own: set[Blob]) -> TaskReport:
    version, manifest = task.version, task.version.manifest
    unique = sum(blob.nbytes for blob in own & {*manifest.blobs, version.manifest_blob})
    tensors = manifest.adapter.weights.nbytes + manifest.head.weights.nbytes
    return TaskReport(
        task=version.task,
        version=version.number,
        versions=versions,
        backbone=task.record.name,
        depth=manifest.depth,
        blocks=task.record.blocks,
        payload_nbytes=task.payload_nbytes,
        header_nbytes=tensors - task.payload_nbytes,
        manifest_nbytes=version.nbytes - tensors,
        unique_nbytes=unique,
        shared_nbytes=version.nbytes - unique,
        saved_by_cut_nbytes=saved_by_cut(task),
        freed_if_deleted_nbytes=sum(blob.nbytes for blob in own),
    )


def _backbone_report(
    record: BackboneRecord, references: list[BlobReference], tasks: list[TaskTensors]
) -> BackboneReport:
    own = {r.blob for r in references if r.task is None and r.owner == f"backbone {record.name}"}
    return BackboneReport(
        name=record.name,
        fingerprint=record.id.fingerprint,
        source=record.source,
        kept_elsewhere=record.weights is None,
        stored_nbytes=sum(blob.nbytes for blob in own),
        tasks=sum(task.record == record for task in tasks),
    )
