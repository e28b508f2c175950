"""One version of a task, with its manifest."""

from __future__ import annotations

from dataclasses import dataclass

from store.records.blob import Blob
from store.records.listing import VersionListing
from store.records.manifest import Manifest


@dataclass(frozen=True)
class Version:
    """One immutable version of a task; `published_at` is ISO 8601 in UTC, `manifest_nbytes` the manifest's own size."""

    task: str
    version: int
    digest: str
    published_at: str
    aliases: tuple[str, ...]
    manifest: Manifest
    manifest_nbytes: int
    removed_at: str | None = None

    @property
    def manifest_blob(self) -> Blob:
        return Blob(self.digest, self.manifest_nbytes)

    @property
    def nbytes(self) -> int:
        """What the version takes at rest, a blob that it names twice counted once."""
        return sum(blob.nbytes for blob in {self.manifest_blob, *self.manifest.blobs})


def summarise(version: Version) -> dict[str, object]:
    """Return a version's fields in JSON, as `GET /v1/tasks` lists them."""
    manifest = version.manifest
    return {
        "task": version.task,
        "version": version.version,
        "aliases": list(version.aliases),
        "backbone": manifest.backbone_name,
        "depth": manifest.depth,
        "blocks": manifest.prune_index.blocks,
        "classes": manifest.head.classes,
        "method": manifest.adapter.method,
        "nbytes": version.nbytes,
        "digest": version.digest,
        "published_at": version.published_at,
    }


def summarise_listed(listed: VersionListing) -> dict[str, object]:
    """Return the same fields of a version whose manifest was not read, with its tags."""
    return {
        "task": listed.task,
        "version": listed.version,
        "aliases": list(listed.aliases),
        "backbone": listed.backbone,
        "depth": listed.depth,
        "blocks": listed.blocks,
        "classes": listed.classes,
        "method": listed.method,
        "nbytes": listed.nbytes,
        "digest": listed.digest,
        "published_at": listed.published_at,
        "removed_at": listed.removed_at,
        "tags": dict(listed.tags),
    }
