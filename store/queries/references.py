"""Which blobs versions and backbones reference, and in which role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from store.backends.blobs import Blobs
from store.errors import FormatError, IntegrityError
from store.queries.reader import Queries
from store.records.backbone import BackboneRecord
from store.records.blob import Blob
from store.records.events import BackboneRow
from store.records.listing import VersionRow
from store.records.manifest import Manifest, decode


@dataclass(frozen=True)
class BlobReference:
    """A blob in its role: `owner` is `TASK:NUMBER` or a backbone's name, `task` is None for a backbone.

    `blake3` is what the owner gives as the blob's second digest, where it gives one.
    """

    blob: Blob
    role: str
    owner: str
    task: str | None
    blake3: str | None = None

    def __str__(self) -> str:
        return f"{self.role} of {self.owner}"


def read_manifest(blobs: Blobs, row: VersionRow) -> Manifest:
    manifest = Manifest.from_json(blobs.get(row.manifest))
    if manifest.task != row.task:
        raise IntegrityError(
            f"{row.task}:{row.version} has the manifest of {manifest.task}: restore the catalogue from a copy"
        )
    return manifest


def read_backbone_record(blobs: Blobs, row: BackboneRow) -> BackboneRecord:
    record = decode(BackboneRecord, blobs.get(Blob(row.record, row.record_nbytes)), "backbone record")
    if record.id.fingerprint != row.fingerprint:
        raise IntegrityError(
            f"backbone {row.name} has the record of fingerprint {record.id.fingerprint[:16]}…, "
            f"not of {row.fingerprint[:16]}…: restore the catalogue from a copy"
        )
    return record


def references(queries: Queries, blobs: Blobs) -> Iterator[BlobReference]:
    """Yield every reference in the catalogue; those of a damaged manifest or record are unknown, its own is given."""
    for row in queries.backbones():
        yield from _readable_backbone_references(row, blobs)
    for version in queries.versions(removed=True):
        yield from _readable_version_references(version, blobs)


def references_to(blob: Blob, queries: Queries, blobs: Blobs) -> list[BlobReference]:
    """Return the references to one blob."""
    candidates = [r for row in queries.backbones() for r in _readable_backbone_references(row, blobs)]
    for version in queries.referencing_versions(blob.sha256):
        candidates += _readable_version_references(version, blobs)
    return [reference for reference in candidates if reference.blob == blob]


def backbone_references(row: BackboneRow, record: BackboneRecord) -> list[BlobReference]:
    roles = {"record": Blob(row.record, row.record_nbytes), "weights": record.weights}
    return [BlobReference(blob, role, f"backbone {row.name}", None) for role, blob in roles.items() if blob is not None]


def version_references(task: str, version: int, manifest_blob: Blob, manifest: Manifest) -> list[BlobReference]:
    roles = {
        "manifest": manifest_blob,
        "adapter config": manifest.adapter.config,
        "adapter weights": manifest.adapter.weights,
        "head weights": manifest.head.weights,
        "class names": manifest.head.labels,
    }
    blake3 = manifest.blake3
    return [BlobReference(blob, role, f"{task}:{version}", task, blake3.get(blob)) for role, blob in roles.items()]


def _readable_backbone_references(row: BackboneRow, blobs: Blobs) -> list[BlobReference]:
    try:
        return backbone_references(row, read_backbone_record(blobs, row))
    except (IntegrityError, FormatError):
        return [BlobReference(Blob(row.record, row.record_nbytes), "record", f"backbone {row.name}", None)]


def _readable_version_references(row: VersionRow, blobs: Blobs) -> list[BlobReference]:
    try:
        return version_references(row.task, row.version, row.manifest, read_manifest(blobs, row))
    except (IntegrityError, FormatError):
        return [BlobReference(row.manifest, "manifest", f"{row.task}:{row.version}", row.task)]
