"""Features of images for training; the frozen blocks below the first adapted one run once for each image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sls.data.dataset import Split, Transform
from sls.training.augmentation import Augmentation
from sls.training.feature_cache import FrozenOutputs
from store.weights.supported import TimmModel
from store.weights.trunk import trunk_of

BATCH = 64
INPUT_NBYTES = 1 << 30
"""Of decoded, resized images that are kept in memory from epoch to epoch; those beyond it are decoded in each."""
FROZEN_BATCH = 8
"""Images that frozen blocks run at a time, always so many: what they make of one depends on no other (test)."""


@dataclass(frozen=True)
class Mix:
    """image = share * image + (1 - share) * image of the partner, by place in the batch."""

    share: float
    partners: npt.NDArray[np.int64]


class FeatureSource:
    """features(rows) = pool(norm(blocks(stem(images[rows])))); the output of the first `frozen` blocks is kept.

    It takes tokens * dim * 2 bytes for each image. Images that are augmented or mixed need `frozen` to be 0. Where no
    block is frozen the transformed images are kept, up to `INPUT_NBYTES`, unless they are augmented. With `known`,
    outputs of frozen blocks are looked up there first, and kept there.
    """

    def __init__(
        self,
        vit: TimmModel,
        split: Split,
        transform: Transform,
        *,
        frozen: int,
        augment: Augmentation | None = None,
        known: FrozenOutputs | None = None,
    ) -> None:
        assert not (frozen and augment)
        self.vit, self.split, self.transform, self.frozen, self.augment = vit, split, transform, frozen, augment
        self._inputs, self._room = dict[int, Tensor](), 0 if frozen or augment else INPUT_NBYTES
        self._known = known
        self._kept = self._run_frozen() if frozen and len(split) else None

    def features(self, rows: npt.NDArray[np.int64], *, epoch: int = 0, mix: Mix | None = None) -> Tensor:
        """Return the features (len(rows), dim) in bfloat16."""
        if self._kept is None:
            images = self._images(rows, epoch)
            if mix is not None:
                images = mix.share * images + (1 - mix.share) * images[torch.from_numpy(mix.partners)]
            features: Tensor = self.vit(images)
        else:
            trunk, x = trunk_of(self.vit), self._kept[torch.from_numpy(rows)]
            for block in trunk.blocks[self.frozen :]:
                x = block(x)
            features = trunk.served(x, len(trunk.dims))
        return features

    @torch.no_grad()
    def _run_frozen(self) -> Tensor:
        self.vit.eval()
        kept: dict[int, Tensor] = {}
        if self._known is not None:
            shape = trunk_of(self.vit).shape(self.frozen)
            found = [self._known.get(digest, shape) for digest in self.split.digests]
            kept = {row: output for row, output in enumerate(found) if output is not None}
        missing = np.array([row for row in range(len(self.split)) if row not in kept], dtype=np.int64)
        for start in range(0, len(missing), FROZEN_BATCH):
            rows = missing[start : start + FROZEN_BATCH]
            kept.update(zip(rows.tolist(), self._through(rows), strict=False))
            if self._known is not None:
                for row in rows.tolist():
                    self._known.put(self.split.digests[row], kept[row])
        return torch.stack([kept[row] for row in range(len(self.split))])

    def _through(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return what the frozen blocks make of at most FROZEN_BATCH images; copies of the first fill up."""
        trunk, images = trunk_of(self.vit), self._images(rows)
        images = torch.cat([images, images[:1].expand(FROZEN_BATCH - len(rows), -1, -1, -1)])
        x = trunk.stem(images)
        for block in trunk.blocks[: self.frozen]:
            x = block(x)
        return x

    def _images(self, rows: npt.NDArray[np.int64], epoch: int = 0) -> Tensor:
        if self.augment is None:
            return torch.stack([self._input(row) for row in rows.tolist()])
        changed = (self.augment(self.split.image(row), epoch=epoch, row=row) for row in rows.tolist())
        return torch.stack([self.transform(image) for image in changed]).bfloat16()

    def _input(self, row: int) -> Tensor:
        kept = self._inputs.get(row)
        if kept is None:
            kept = self.transform(self.split.image(row)).bfloat16()
            if kept.nbytes <= self._room:
                self._inputs[row], self._room = kept, self._room - kept.nbytes
        return kept


def batches(count: int, size: int = BATCH) -> list[npt.NDArray[np.int64]]:
    """Divide 0..count - 1 into runs of at most `size`."""
    return np.array_split(np.arange(count), -(-count // size)) if count else []
