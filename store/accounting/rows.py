"""The rows of a storage report: one for each version, task, group, place and point in time.

Those of which there may be ten thousand are tuples, which take a third of the time to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Places:
    """`physical = live + reclaimable + garbage + overhead`, each the sum of the sizes of files.

    Live blobs are referenced by a version or a backbone, reclaimable ones by none that is there. Of the reclaimable
    bytes, `leased` are held by a lease, `removed` are those that restoring removed versions needs, and a collection
    without grace time frees all but the leased ones. Overhead is the catalogue, the journal and the store's identity;
    garbage is every other file, of which `orphaned` are temporary files that a collection deletes, and `quarantined`
    were set aside as damaged.
    """

    physical_nbytes: int
    live_nbytes: int
    reclaimable_nbytes: int
    garbage_nbytes: int
    overhead_nbytes: int
    leased_nbytes: int
    removed_nbytes: int
    orphaned_nbytes: int
    quarantined_nbytes: int
    catalogue_nbytes: int
    journal_nbytes: int
    files: int


class VersionReport(NamedTuple):
    """A version's bytes at rest, by what they are: the parts add up to `nbytes`, and so do unique and shared ones.

    Adapter and head are tensors, headers what safetensors puts before them. Shared bytes are of blobs that another
    version or a backbone references too. `unknown_nbytes` are of blobs whose part could not be read. `width_nbytes` are
    those of the manifest that say which heads, units and patches are kept, 0 where all are.
    """

    task: str
    version: int
    tenant: str
    aliases: tuple[str, ...]
    leased: bool
    published_at: str
    backbone: str
    method: str
    rank: int | None
    dtype: str
    depth: int
    blocks: int
    adapter_nbytes: int
    head_nbytes: int
    header_nbytes: int
    manifest_nbytes: int
    config_nbytes: int
    labels_nbytes: int
    unknown_nbytes: int
    nbytes: int
    unique_nbytes: int
    shared_nbytes: int
    saved_by_cut_nbytes: int
    saved_by_cut_blocks: int
    saved_by_cut_flops: int | None
    freed_if_deleted_nbytes: int
    width_nbytes: int
    saved_by_width_flops: int | None


class TaskReport(NamedTuple):
    """A task: its latest version by parts, and all its versions together.

    `stored_nbytes` counts each blob of its versions once and is unique + shared: unique blobs are referenced by no
    other task and no backbone. Deleting the task frees those of them that no lease holds.
    """

    task: str
    tenant: str
    version: int
    versions: int
    backbone: str
    method: str
    dtype: str
    depth: int
    blocks: int
    adapter_nbytes: int
    head_nbytes: int
    header_nbytes: int
    manifest_nbytes: int
    config_nbytes: int
    labels_nbytes: int
    unknown_nbytes: int
    nbytes: int
    stored_nbytes: int
    unique_nbytes: int
    shared_nbytes: int
    saved_by_cut_nbytes: int
    saved_by_cut_blocks: int
    saved_by_cut_flops: int | None
    freed_if_deleted_nbytes: int
    width_nbytes: int
    saved_by_width_flops: int | None

    @property
    def payload_nbytes(self) -> int:
        return self.adapter_nbytes + self.head_nbytes


PARTS = ("adapter", "head", "header", "manifest", "config", "labels", "unknown")
"""The parts of a version's bytes; each is a field `PART_nbytes` of versions and tasks."""


class GroupReport(NamedTuple):
    """What the versions of one tenant, method, backbone, depth or dtype reference, each blob once.

    Unique blobs are referenced by no version outside the group. `name` is "" for tasks without a tenant.
    """

    by: str
    name: str
    tasks: int
    versions: int
    nbytes: int
    unique_nbytes: int
    shared_nbytes: int


class BackboneReport(NamedTuple):
    """A backbone; where its weights are kept elsewhere, the store has its record alone."""

    name: str
    fingerprint: str
    source: str
    kept_elsewhere: bool
    blocks: int
    parameters: int
    weights_nbytes: int
    stored_nbytes: int
    block_flops: int | None
    tasks: int
    versions: int


class GrowthPoint(NamedTuple):
    """What happened in a period that begins `at` (ISO 8601, UTC), and what was there at its end.

    Bytes are of blobs that versions and backbones referenced; of `unsized` versions, purged since, no size is known.
    """

    at: str
    published: int
    removed: int
    restored: int
    purged: int
    tasks: int
    versions: int
    unsized: int
    added_nbytes: int
    live_nbytes: int


class Problem(NamedTuple):
    """Something that the report could not see or divide, and why."""

    subject: str
    problem: str
    nbytes: int
