"""What the model of a store consists of: a task's files, versions, tasks, alias rules and backbones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from blake3 import blake3

BLOCKS, DIM, CLASSES = 4, 48, 3


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob_of(data: bytes) -> dict[str, object]:
    return {"sha256": sha256(data), "nbytes": len(data)}


@dataclass(frozen=True)
class Content:
    """A task's files: config, adapter, head, class names; and how many of 100 are right at full depth and when cut."""

    files: tuple[bytes, bytes, bytes, bytes]
    full: int | None = None
    cut: int | None = None

    @property
    def certificate(self) -> dict[str, object] | None:
        if self.full is None:
            return None
        counts = {"full": {"correct": self.full, "total": 100}, "cut": {"correct": self.cut, "total": 100}}
        missing = dict.fromkeys(("cut_before_retune", "validation", "max_drop", "duplicates"))
        return {**counts, **missing, "curve": []}

    def manifest(self, task: str, backbone: str, fingerprint: str) -> bytes:
        config, weights, head, labels = map(blob_of, self.files)
        index = {"alpha": None, "blocks": BLOCKS, "criterion": "given", "depth": 1, "reason": None, "samples": 0}
        adapter = {"method": "lora", "rank": 1, "modules": ["blocks.0.attn.qkv"], "config": config, "weights": weights}
        adapter["weights_blake3"] = blake3(self.files[1]).hexdigest()
        return canonical(
            {
                "task": task,
                "backbone": fingerprint,
                "backbone_name": backbone,
                "prune_index": {
                    **index,
                    "scores": [],
                    "seed": None,
                    "threshold": None,
                    "tolerance": None,
                    "candidates": [],
                },
                "adapter": adapter,
                "head": {
                    "classes": CLASSES,
                    "dim": DIM,
                    "weights": head,
                    "labels": labels,
                    "weights_blake3": blake3(self.files[2]).hexdigest(),
                },
                "certificate": self.certificate,
                "lineage": None,
                "format": 7,
            }
        )


@dataclass
class ModelVersion:
    """A version that is not purged, and the sizes of its blobs by their digests."""

    content: Content
    backbone: str
    digest: str
    blobs: dict[str, int]
    removed: bool = False
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class ModelTask:
    next: int = 1
    versions: dict[int, ModelVersion] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    trails: dict[str, list[int]] = field(default_factory=dict)

    @property
    def there(self) -> dict[int, ModelVersion]:
        return {number: version for number, version in self.versions.items() if not version.removed}


@dataclass(frozen=True)
class ModelRule:
    protected: bool = False
    max_drop: float | None = None
    min_accuracy: float | None = None


@dataclass
class ModelBackbone:
    """A backbone, and the sizes of its blobs by their digests."""

    fingerprint: str
    blobs: dict[str, int]
