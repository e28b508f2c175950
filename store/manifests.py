"""From a checked folder to the manifest of a version, and back."""

from __future__ import annotations

from collections.abc import Callable

from store.checkpoint import CARD, CONFIG, HEAD, LABELS, WEIGHTS, Checkpoint, Fit
from store.records import Adapter, BackboneRecord, Blob, Card, Head, Manifest, PruneIndex


def compose(
    task: str, checkpoint: Checkpoint, fit: Fit, record: BackboneRecord, depth: int, put: Callable[[bytes], Blob]
) -> Manifest:
    """Put the folder's files and describe them; without a card, the depth is what was given."""
    card = checkpoint.card
    return Manifest(
        task=task,
        backbone=record.id.fingerprint,
        backbone_name=record.name,
        prune_index=card.prune_index if card else PruneIndex(depth, record.blocks, criterion="given"),
        adapter=Adapter(
            method=fit.method,
            rank=max(fit.ranks.values()),
            modules=tuple(fit.ranks),
            config=put(checkpoint.config),
            weights=put(checkpoint.weights),
        ),
        head=Head(len(checkpoint.classes), record.dim, weights=put(checkpoint.head), labels=put(checkpoint.labels)),
        certificate=card.certificate if card else None,
        lineage=card.lineage if card else None,
    )


def decompose(manifest: Manifest, read: Callable[[Blob], bytes]) -> dict[str, bytes]:
    """Return the folder's files by name: as they came, and the card that gives this manifest again."""
    card = Card(manifest.backbone, manifest.prune_index, manifest.certificate, manifest.lineage)
    return {
        CONFIG: read(manifest.adapter.config),
        WEIGHTS: read(manifest.adapter.weights),
        HEAD: read(manifest.head.weights),
        LABELS: read(manifest.head.labels),
        CARD: card.to_json(),
    }
