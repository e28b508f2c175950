"""One version of a task, with its manifest."""

from __future__ import annotations

from dataclasses import dataclass

from store.records.blob import Blob
from store.records.manifest import Manifest


@dataclass(frozen=True)
class Version:
    """One immutable version of a task; `published_at` is ISO 8601 in UTC, `manifest_nbytes` the manifest's own size."""

    task: str
    number: int
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

    def to_dict(self) -> dict[str, object]:
        """Return the version's fields in JSON, as `GET /v1/tasks` lists them."""
        manifest = self.manifest
        return {
            "task": self.task,
            "version": self.number,
            "aliases": list(self.aliases),
            "backbone": manifest.backbone_name,
            "depth": manifest.depth,
            "blocks": manifest.prune_index.blocks,
            "classes": manifest.head.classes,
            "method": manifest.adapter.method,
            "nbytes": self.nbytes,
            "digest": self.digest,
            "published_at": self.published_at,
        }
