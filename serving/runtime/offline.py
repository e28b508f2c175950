"""Many images through several tasks of one backbone, in batches of one size, without a queue."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from serving.engine.engine import Engine
from serving.engine.row_plan import rows_by_block
from serving.images import ImageSource
from serving.prediction import Prediction
from serving.runtime.decode_pool import DecodePool
from serving.runtime.device import choose_dtype, max_rows
from serving.runtime.engine_prediction import EnginePrediction
from store.errors import BackboneMismatchError
from store.registry.read_only_store import ReadOnlyStore
from store.registry.store import Version
from store.weights.backbones import open_backbone
from store.weights.load_task import load_prepared

Pixels = Tensor
"""The backbone's input for one image."""
ROWS, IMAGES = 256, 64
"""Of a batch, at most: more are not faster."""


class OfflineEngine:
    """The engine with these versions loaded; close it to end its decoders."""

    def __init__(
        self, store: ReadOnlyStore, versions: Sequence[Version], *, dtype: str = "auto", device: str = "cpu"
    ) -> None:
        check_one_backbone(versions)
        self.versions = tuple(versions)
        record = store.backbone(versions[0].manifest.backbone)
        backbone = open_backbone(store, record)
        chosen = choose_dtype(dtype, device)
        self._engine = Engine(backbone, dtype=chosen, device=device)
        self._tasks = [
            load_prepared(
                store,
                version.manifest,
                self._engine.prepare,
                backbone=backbone.tensors,
                dtype=chosen,
                device=self._engine.device,
            )
            for version in versions
        ]
        self._decoding = DecodePool(record.id.preprocessing)
        self.images = max(1, min(IMAGES, min(ROWS, max_rows(backbone, chosen)) // len(versions)))
        """How many images a batch takes."""
        self.row_blocks = sum(rows_by_block(self._tasks, [0] * len(self._tasks)))
        """Blocks that run for an image, those that tasks share once."""

    def close(self) -> None:
        self._decoding.close()

    def decode(self, image: ImageSource) -> Pixels:
        """Return the backbone's input; raise `ImageError` where the image cannot be decoded."""
        return self._decoding.decode(image)

    def predict(self, pixels: Sequence[Pixels]) -> list[tuple[Prediction, ...]]:
        """Return each image's predictions in the order of the versions."""
        count = len(self._tasks)
        image_of = [image for image in range(len(pixels)) for _ in range(count)]
        logits = self._engine.forward(torch.stack(list(pixels)), self._tasks * len(pixels), image_of)
        return [
            tuple(
                EnginePrediction(version.task, version.number, version.manifest.depth, task.labels, row.cpu())
                for version, task, row in zip(self.versions, self._tasks, logits[start : start + count], strict=True)
            )
            for start in range(0, len(logits), count)
        ]


def check_one_backbone(versions: Sequence[Version]) -> None:
    """Raise `BackboneMismatchError` where the versions do not share one backbone."""
    first = versions[0].manifest
    for version in versions:
        if version.manifest.backbone != first.backbone:
            raise BackboneMismatchError(
                f"{version.task}:{version.number} uses backbone {version.manifest.backbone_name!r}, "
                f"{versions[0].task}:{versions[0].number} {first.backbone_name!r}: score them apart"
            )
