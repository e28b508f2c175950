"""What queries of the catalogue take and return: searches, rows of versions, pages and leases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from store.records.blob import Blob
from store.records.bounds import check_list, check_text
from store.records.evidence import Certificate


class VersionRow(NamedTuple):
    task: str
    version: int
    manifest: Blob
    published_at: str
    removed_at: str | None
    backbone: str
    aliases: tuple[str, ...]


class VersionSize(NamedTuple):
    """A version as the catalogue has it; `nbytes` is what it takes at rest, `manifest_nbytes` its manifest alone."""

    task: str
    version: int
    digest: str
    manifest_nbytes: int
    published_at: str
    fingerprint: str
    backbone: str
    depth: int
    blocks: int
    method: str
    nbytes: int
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class VersionListing:
    """A version as a listing shows it, without its manifest; `backbone` is the name, `tags` are its own and its task's.

    `nbytes` is what the version takes at rest.
    """

    task: str
    version: int
    aliases: tuple[str, ...]
    backbone: str
    depth: int
    blocks: int
    classes: int
    method: str
    nbytes: int
    digest: str
    published_at: str
    removed_at: str | None
    tags: Mapping[str, str]

    def to_dict(self) -> dict[str, object]:
        """Return the fields of `Version.to_dict`, and when it was removed and its tags."""
        return {
            "task": self.task,
            "version": self.version,
            "aliases": list(self.aliases),
            "backbone": self.backbone,
            "depth": self.depth,
            "blocks": self.blocks,
            "classes": self.classes,
            "method": self.method,
            "nbytes": self.nbytes,
            "digest": self.digest,
            "published_at": self.published_at,
            "removed_at": self.removed_at,
            "tags": dict(self.tags),
        }


@dataclass(frozen=True)
class Search:
    """The filters of a listing; `text` is searched for in the name, `tenant` "" selects names without a tenant."""

    text: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    backbone: str | None = None
    method: str | None = None
    alias: str | None = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        check_list("tags", self.tags)
        texts = {"text": self.text, "backbone": self.backbone, "method": self.method, "alias": self.alias}
        for kind, text in {**texts, "tenant": self.tenant}.items():
            check_text(kind, text)
        for key, value in self.tags.items():
            check_text("tag", key)
            check_text(f"tag {key!r} with value", value)


class Page(NamedTuple):
    """Rows in the order of their tasks; `next` is the `after` of the next page, None on the last one."""

    rows: tuple[VersionListing, ...]
    next: str | None


class Lease(NamedTuple):
    """The digests that a replica or a publish in flight protects until `expires_at` (seconds since the epoch)."""

    id: str
    holder: str
    expires_at: float
    digests: tuple[str, ...]


@dataclass(frozen=True)
class CatalogueEntry:
    """What the catalogue keeps of a version beside its manifest: what a listing shows, and every blob that it names."""

    manifest: Blob
    backbone: str
    depth: int
    blocks: int
    classes: int
    method: str
    blobs: tuple[Blob, ...]
    certificate: Certificate | None

    @property
    def nbytes(self) -> int:
        """What the version takes at rest, a blob that it names twice counted once."""
        return sum(blob.nbytes for blob in {self.manifest, *self.blobs})
