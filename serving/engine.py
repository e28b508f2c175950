"""Run a batch in which each row is another task, through one frozen backbone, each row to its own depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from serving.block import ServedBlock
from store.backbones import Backbone
from store.forms import TaskWeights
from store.served import check_served


@dataclass(frozen=True)
class Finished:
    """Rows of a batch whose answers are ready, and their logits: float32, one for each class of the row's task."""

    rows: tuple[int, ...]
    logits: tuple[Tensor, ...]


class Engine:
    """One frozen backbone; the weights of the tasks come with each batch and never enter it."""

    def __init__(self, backbone: Backbone, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self.record = backbone.record
        self.dtype = dtype
        self.device = torch.device(device)
        self._vit = check_served(backbone.build(dtype=dtype, device=device), backbone.record.name)
        self._blocks = [ServedBlock(block, f"blocks.{index}") for index, block in enumerate(self._vit.blocks)]

    def forward(self, images: Tensor, tasks: Sequence[TaskWeights]) -> list[Tensor]:
        """logits[i] = head_i(pool(norm(block_{depth_i}(… block_1(stem(images[i])))))); images (B, 3, H, W) float32."""
        logits: dict[int, Tensor] = {}
        for finished in self.walk(images, tasks):
            logits.update(zip(finished.rows, finished.logits, strict=True))
        return [logits[row] for row in range(len(tasks))]

    @torch.inference_mode()
    def walk(self, images: Tensor, tasks: Sequence[TaskWeights]) -> Iterator[Finished]:
        """Yield rows as they reach their depth, shallowest first; the rows still running are always a prefix."""
        order = sorted(range(len(tasks)), key=lambda row: -tasks[row].depth)
        running = [tasks[row] for row in order]
        x = _stem(self._vit, images[order].to(self.device, self.dtype))
        for depth, block in enumerate(self._blocks, start=1):
            x = block(x, running)
            staying = sum(task.depth > depth for task in running)
            if staying < len(running):
                logits = _answer(self._vit, x[staying:], running[staying:])
                yield Finished(tuple(order[staying : len(running)]), logits)
                running, x = running[:staying], x[:staying]
            if not running:
                return


def _stem(vit: VisionTransformer, images: Tensor) -> Tensor:
    tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
    return tokens


def _answer(vit: VisionTransformer, x: Tensor, tasks: Sequence[TaskWeights]) -> tuple[Tensor, ...]:
    # A LayerNorm sees one token at a time, so only those before the patches need it where only they are pooled.
    x = vit.norm(x[:, : vit.num_prefix_tokens] if vit.global_pool == "token" else x)
    features = vit.forward_head(x, pre_logits=True)
    return tuple(
        F.linear(feature, task.head_weight, task.head_bias).float()
        for feature, task in zip(features, tasks, strict=True)
    )
