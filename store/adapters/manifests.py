"""From a checked folder to the manifest of a version, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from store.adapters.checkpoint import CARD, CONFIG, HEAD, LABELS, WEIGHTS, AdapterSummary, Checkpoint
from store.records.backbone import BackboneRecord
from store.records.blob import Blob, blake3_of
from store.records.evidence import PruneIndex
from store.records.listing import CatalogueEntry
from store.records.manifest import MANIFEST_FORMAT, Adapter, Card, Head, Manifest


@dataclass(frozen=True)
class ManifestDraft:
    """A version that is not published yet: its manifest, and every blob with its bytes, the manifest's too."""

    manifest: Manifest
    contents: dict[Blob, bytes]

    @property
    def entry(self) -> CatalogueEntry:
        return entry_of(self.manifest, Blob.of(self.manifest.to_json()))


def build_manifest(
    task: str, checkpoint: Checkpoint, summary: AdapterSummary, record: BackboneRecord, depth: int
) -> ManifestDraft:
    """Describe the folder's files; without a card, the depth is what was given.

    A card of an older format gives a manifest of that format, so that its digest does not change.
    """
    contents: dict[Blob, bytes] = {}

    def keep(data: bytes) -> Blob:
        blob = Blob.of(data)
        contents[blob] = data
        return blob

    card = checkpoint.card
    format_ = card.format if card else MANIFEST_FORMAT
    second_digest = blake3_of if format_ >= 5 else _no_digest
    manifest = Manifest(
        task=task,
        backbone=record.id.fingerprint,
        backbone_name=record.name,
        prune_index=card.prune_index if card else PruneIndex(depth, record.blocks, criterion="given"),
        adapter=Adapter(
            method=summary.method,
            rank=max(summary.ranks.values()),
            modules=tuple(summary.ranks),
            config=keep(checkpoint.config),
            weights=keep(checkpoint.weights),
            weights_blake3=second_digest(checkpoint.weights),
        ),
        head=Head(
            classes=len(checkpoint.classes),
            dim=checkpoint.head_infos["weight"].shape[1],
            weights=keep(checkpoint.head),
            labels=keep(checkpoint.labels),
            weights_blake3=second_digest(checkpoint.head),
        ),
        certificate=card.certificate if card else None,
        lineage=card.lineage if card else None,
        format=format_,
    )
    keep(manifest.to_json())
    return ManifestDraft(manifest, contents)


def _no_digest(_: bytes) -> None:
    return None


def restore_files(manifest: Manifest, read: Callable[[Blob], bytes]) -> dict[str, bytes]:
    """Return the folder's files by name: as they came, and the card that gives this manifest again."""
    card = Card(manifest.backbone, manifest.prune_index, manifest.certificate, manifest.lineage, format=manifest.format)
    return {
        CONFIG: read(manifest.adapter.config),
        WEIGHTS: read(manifest.adapter.weights),
        HEAD: read(manifest.head.weights),
        LABELS: read(manifest.head.labels),
        CARD: card.to_json(),
    }


def entry_of(manifest: Manifest, blob: Blob) -> CatalogueEntry:
    """Return what the catalogue keeps of a version beside its manifest."""
    return CatalogueEntry(
        manifest=blob,
        backbone=manifest.backbone,
        depth=manifest.depth,
        blocks=manifest.prune_index.blocks,
        classes=manifest.head.classes,
        method=manifest.adapter.method,
        blobs=manifest.blobs,
        certificate=manifest.certificate,
    )
