"""Run a batch in which each row is another task, through one frozen backbone, each row to its own depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from serving.engine.batch_run import BatchRun, EngineModel, Finished
from serving.engine.block import ServedBlock
from serving.engine.core_threads import CoreThreads
from serving.engine.cuda.captured_blocks import on_cuda
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights
from store.weights.supported import check_supported


class Engine:
    """One frozen backbone; the weights of the tasks come with each batch and never enter it.

    With `batch_invariant`, each row runs alone, so that an image and a task give the same bytes whatever the batch.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        batch_invariant: bool = False,
    ) -> None:
        self.record = backbone.record
        self.dtype = dtype
        self.device = torch.device(device)
        vit = check_supported(backbone.build(dtype=dtype, device=device), backbone.record.name)
        grid = vit.patch_embed.grid_size
        blocks = [ServedBlock(block, f"blocks.{index}", grid) for index, block in enumerate(vit.blocks)]
        steps = blocks if self.device.type != "cuda" else on_cuda(vit, blocks).each()
        threads = CoreThreads(torch.get_num_threads() if self.device.type == "cpu" else 1, always=batch_invariant)
        self._model = EngineModel(vit, steps, threads, batch_invariant)

    def begin(self, images: Tensor, tasks: Sequence[TaskWeights], image_of: Sequence[int] | None = None) -> BatchRun:
        """Begin a batch: row i is task i on image image_of[i], or on image i; images (n, 3, H, W) float32.

        Tasks of one image share its rows below the first block that any of them adapts. Rows depend on no other row.
        """
        moved = images.to(self.device, self.dtype)
        return BatchRun(self._model, moved, tasks, range(len(tasks)) if image_of is None else image_of)

    def run(
        self, images: Tensor, tasks: Sequence[TaskWeights], image_of: Sequence[int] | None = None
    ) -> Iterator[Finished]:
        """Run a batch to its end and yield rows as they reach their depth, shallowest first."""
        batch = self.begin(images, tasks, image_of)
        while not batch.done:
            if (finished := batch.run_block()) is not None:
                yield finished

    def forward(
        self, images: Tensor, tasks: Sequence[TaskWeights], image_of: Sequence[int] | None = None
    ) -> list[Tensor]:
        """logits[i] = head_i(pool(norm(block_{depth_i}(… block_1(stem(images[image_of[i]]))))))."""
        logits: dict[int, Tensor] = {}
        for finished in self.run(images, tasks, image_of):
            logits.update(zip(finished.rows, finished.logits, strict=True))
        return [logits[row] for row in range(len(tasks))]
