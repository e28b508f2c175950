"""Which blobs are there for what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from store.blobs import FolderBlobs
from store.catalogue import BackboneRow, Catalogue, VersionRow
from store.errors import FormatError, IntegrityError
from store.records import BackboneRecord, Blob, Manifest, decode


@dataclass(frozen=True)
class Use:
    """A blob in its role: `owner` is `TASK:NUMBER` or a backbone's name, `task` is None for a backbone."""

    blob: Blob
    role: str
    owner: str
    task: str | None

    def __str__(self) -> str:
        return f"{self.role} of {self.owner}"


def read_manifest(blobs: FolderBlobs, row: VersionRow) -> Manifest:
    manifest = Manifest.from_json(blobs.get(row.manifest))
    if manifest.task != row.task:
        raise IntegrityError(
            f"{row.task}:{row.version} has the manifest of {manifest.task}: restore the catalogue from a copy"
        )
    return manifest


def read_backbone_record(blobs: FolderBlobs, blob: Blob) -> BackboneRecord:
    return decode(BackboneRecord, blobs.get(blob), "backbone record")


def uses(catalogue: Catalogue, blobs: FolderBlobs) -> Iterator[Use]:
    """Yield every use that the catalogue knows; what a damaged manifest or record names stays unknown."""
    for row in catalogue.backbones():
        try:
            yield from backbone_uses(row, read_backbone_record(blobs, row.record))
        except (IntegrityError, FormatError):
            yield Use(row.record, "record", f"backbone {row.name}", None)
    for version in catalogue.versions():
        try:
            yield from version_uses(version.task, version.version, version.manifest, read_manifest(blobs, version))
        except (IntegrityError, FormatError):
            yield Use(version.manifest, "manifest", f"{version.task}:{version.version}", version.task)


def backbone_uses(row: BackboneRow, record: BackboneRecord) -> list[Use]:
    roles = {"record": row.record, "weights": record.weights}
    return [Use(blob, role, f"backbone {row.name}", None) for role, blob in roles.items() if blob is not None]


def version_uses(task: str, version: int, named: Blob, manifest: Manifest) -> list[Use]:
    roles = {
        "manifest": named,
        "adapter config": manifest.adapter.config,
        "adapter weights": manifest.adapter.weights,
        "head weights": manifest.head.weights,
        "class names": manifest.head.labels,
    }
    return [Use(blob, role, f"{task}:{version}", task) for role, blob in roles.items()]
