"""Run a batch in which each row is another task, through one frozen backbone, each row to its own depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from serving.engine.batch_run import BatchRun, Finished
from serving.engine.models import make_model
from serving.engine.row_plan import EngineTask
from serving.kernel.instruction_sets import KernelChoice
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights
from store.weights.regular_task import RegularTask


class Engine:
    """One frozen backbone; the weights of the tasks come with each batch and never enter it.

    In bfloat16 on a CPU the engine's own kernel runs it where this machine can (`kernel` says which, and why). It
    gives the same bytes for an image and a task whatever the batch. Elsewhere torch does, for which
    `batch_invariant` gives the same, in more time: each row runs alone.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        batch_invariant: bool = False,
        kernel: str | None = None,
    ) -> None:
        """`kernel` is a setting of ONETRUNK_KERNEL, the environment's where it is None."""
        self.record = backbone.record
        self.dtype = dtype
        self.device = torch.device(device)
        self.kernel: KernelChoice
        self.kernel, self._model = make_model(
            backbone, dtype=dtype, device=self.device, batch_invariant=batch_invariant, setting=kernel
        )

    def prepare(self, task: TaskWeights | RegularTask) -> EngineTask:
        """Lay a task's weights out as this engine multiplies with them; what it returns replaces them.

        It takes time: prepare a task once, on another thread than the engine's.
        """
        return self._model.prepare(task)

    def begin(self, images: Tensor, tasks: Sequence[EngineTask], image_of: Sequence[int] | None = None) -> BatchRun:
        """Begin a batch: row i is task i on image image_of[i], or on image i; images (n, 3, H, W) float32.

        Tasks of one image share its rows below the first block that any of them adapts. Rows depend on no other row.
        """
        tasks = [self._model.prepared(task) for task in tasks]
        return BatchRun(self._model.begin(images, tasks), tasks, range(len(tasks)) if image_of is None else image_of)

    def run(
        self, images: Tensor, tasks: Sequence[EngineTask], image_of: Sequence[int] | None = None
    ) -> Iterator[Finished]:
        """Run a batch to its end and yield rows as they reach their depth, shallowest first."""
        batch = self.begin(images, tasks, image_of)
        while not batch.done:
            if (finished := batch.run_blocks(1)) is not None:
                yield finished

    def forward(
        self, images: Tensor, tasks: Sequence[EngineTask], image_of: Sequence[int] | None = None
    ) -> list[Tensor]:
        """logits[i] = head_i(pool(norm(block_{depth_i}(… block_1(stem(images[image_of[i]]))))))."""
        logits: dict[int, Tensor] = {}
        batch = self.begin(images, tasks, image_of)
        while not batch.done:
            if (finished := batch.run_blocks(self.record.blocks)) is not None:
                logits.update(zip(finished.rows, finished.logits, strict=True))
        return [logits[row] for row in range(len(tasks))]
