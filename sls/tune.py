"""Train LoRA and a linear head on blocks 1..depth of a frozen backbone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from sls.adapted import Adapted, Tuned, linear, timm_model, wrap
from sls.task import ImageTask, Split, Transform
from store.backbones import Backbone
from store.errors import InvalidSettingError

BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW, a linear warm-up over the first tenth of the steps, then a half cosine to zero."""

    epochs: int = 8
    learning_rate: float = 3e-3
    batch: int = 8
    weight_decay: float = 1e-4
    rank: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.rank) < 1 or not 0 < self.learning_rate < 1 or self.weight_decay < 0:
            raise InvalidSettingError(
                f"{self}: give epochs, batch and rank of at least 1, a learning rate within 0..1, no negative decay"
            )


@dataclass(frozen=True)
class Progress:
    """A step of a stage is done: an epoch with its loss and validation accuracy, or a block with its score."""

    stage: str
    step: int
    steps: int
    seconds_left: float
    loss: float | None = None
    accuracy: float | None = None
    score: float | None = None


Report = Callable[[Progress], None]


@torch.random.fork_rng(devices=())
def tune(
    task: ImageTask,
    backbone: Backbone,
    start: Tuned,
    recipe: Recipe,
    *,
    transform: Transform,
    stage: str,
    report: Report,
) -> Tuned:
    """Train on from `start`, at its depth; the backbone's own weights stay as they are."""
    torch.manual_seed(recipe.seed)
    peft = wrap(backbone, start.depth, start.rank, torch.bfloat16)
    if start.adapter:
        set_peft_model_state_dict(peft, dict(start.adapter))
    model = Adapted(_use_explicit_attention(timm_model(peft)), linear(start.weight, start.bias))
    trainer = _Trainer(model, task.train, transform, recipe)
    began = time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        loss = trainer.epoch()
        left = (time.monotonic() - began) / epoch * (recipe.epochs - epoch)
        accuracy = _watch(model, task.validation, transform)
        report(Progress(stage, epoch, recipe.epochs, left, loss=loss, accuracy=accuracy))
    trainer.finish()
    return _collect(peft, model.head, start)


class _Trainer:
    def __init__(self, model: Adapted, train: Split, transform: Transform, recipe: Recipe) -> None:
        self.model, self.train, self.transform = model, train, transform
        self.batches = math.ceil(len(train) / recipe.batch)
        self.order = np.random.default_rng(recipe.seed)
        self.parameters = [p for p in (*model.vit.parameters(), *model.head.parameters()) if p.requires_grad]
        # bfloat16 would swallow the small updates, so the optimizer works on float32 copies.
        self.masters = [p.detach().float().clone().requires_grad_() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
        )
        steps = recipe.epochs * self.batches
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: rate_at(step, steps))

    def epoch(self) -> float:
        """Go through the images once and return the mean loss."""
        self.model.vit.train()
        losses = []
        for rows in np.array_split(self.order.permutation(len(self.train)), self.batches):
            logits = _logits(self.model, self.train, rows, self.transform)
            loss = functional.cross_entropy(logits, torch.from_numpy(self.train.labels[rows]))
            torch.autograd.backward(loss)
            self._step()
            losses.append(loss.item())
        return float(np.mean(losses))

    @torch.no_grad()
    def _step(self) -> None:
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            assert parameter.grad is not None
            master.grad, parameter.grad = parameter.grad.float(), None
        self.optimizer.step()
        self.schedule.step()
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.copy_(master)

    def finish(self) -> None:
        """Leave the model with the float32 copies."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            parameter.data = master.detach()


def rate_at(step: int, steps: int) -> float:
    """Share of the learning rate at a step: (step + 1) / w for w = steps / 10, then (1 + cos(pi t)) / 2."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


@torch.inference_mode()
def _watch(model: Adapted, split: Split, transform: Transform) -> float | None:
    if not len(split):
        return None
    model.vit.eval()
    correct = 0
    for rows in np.array_split(np.arange(len(split)), -(-len(split) // BATCH)):
        correct += int((_logits(model, split, rows, transform).argmax(dim=1).numpy() == split.labels[rows]).sum())
    return correct / len(split)


def _logits(model: Adapted, split: Split, rows: npt.NDArray[np.int64], transform: Transform) -> Tensor:
    """head(vit(x)): x and vit in bfloat16, the head in float32."""
    features: Tensor = model.vit(split.inputs(rows, transform).bfloat16())
    logits: Tensor = model.head(features.float())
    return logits


def _use_explicit_attention(vit: VisionTransformer) -> VisionTransformer:
    # on a CPU, training through bfloat16 scaled_dot_product_attention takes nearly twice as long
    for block in vit.blocks:
        block.attn.fused_attn = False
    return vit


def _collect(peft: PeftModel, head: nn.Linear, start: Tuned) -> Tuned:
    adapter = {k: v.detach().float().clone() for k, v in get_peft_model_state_dict(peft).items()}
    return Tuned(start.depth, start.rank, adapter, head.weight.detach().clone(), head.bias.detach().clone())
