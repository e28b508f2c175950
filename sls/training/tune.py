"""Train an adapter and a linear head on blocks 1..depth of a frozen backbone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer

from sls.adapters.methods import METHODS
from sls.adapters.model import Adapted, Tuned, linear
from sls.data.dataset import Dataset, Transform
from sls.progress import Progress, ProgressCallback
from sls.training.checkpoint import TrainingCheckpoint, run_of
from sls.training.frozen_prefix import Source, batches
from sls.training.recipe import TrainingConfig
from sls.training.trainer import Trainer, round_off
from store.errors import DataError
from store.weights.backbones import Backbone


@torch.random.fork_rng(devices=())
def tune(
    task: Dataset,
    backbone: Backbone,
    start: Tuned,
    recipe: TrainingConfig,
    *,
    transform: Transform,
    stage: str,
    report: ProgressCallback,
    checkpoint: Path | None = None,
) -> Tuned:
    """Train on from `start`, at its depth; the backbone's own weights stay as they are.

    A start without tensors gets fresh adapters, as the recipe says. Each epoch is kept in the file `checkpoint`, and
    a run that ended before its time goes on from there, to the bits that it would have come to at once.

    Raises `DataError` for patience without validation images, `InvalidSettingError` where no block is to be adapted,
    `ConflictError` for a checkpoint of another recipe, backbone, start or data, `FormatError` for a damaged one.
    """
    if recipe.patience and not len(task.validation):
        raise DataError(f"{task.name}: patience {recipe.patience} watches validation images: give some, or patience 0")
    if not start.adapter:
        start = replace(start, method=recipe.method, from_block=recipe.from_block, scale=recipe.scale)
    torch.manual_seed(recipe.seed)
    wrapped = METHODS[start.method].wrap(backbone, start, torch.float32)
    model = Adapted(_use_explicit_attention(wrapped.vit), linear(start.weight, start.bias))
    weights, frozen = round_off(model), start.from_block - 1
    trainer = Trainer(model, weights, Source(model.vit, task.train, transform, frozen=frozen), recipe)
    watched = Source(model.vit, task.validation, transform, frozen=frozen)
    kept = TrainingCheckpoint(checkpoint, run_of(task, backbone, start, recipe)) if checkpoint else None
    if kept and (state := kept.read()):
        trainer.restore(state)
    began, resumed = time.monotonic(), trainer.epoch
    while not trainer.done:
        loss = trainer.run_epoch()
        accuracy = _accuracy(model, watched)
        trainer.judge(accuracy)
        if kept:
            kept.write(trainer.state())
        left = (time.monotonic() - began) / (trainer.epoch - resumed) * (recipe.epochs - trainer.epoch)
        report(Progress(stage, trainer.epoch, recipe.epochs, left, loss=loss, accuracy=accuracy))
    trainer.finish()
    adapter = {key: value.detach().float().clone() for key, value in wrapped.collect().items()}
    return replace(start, adapter=adapter, weight=model.head.weight.detach(), bias=model.head.bias.detach())


@torch.inference_mode()
def _accuracy(model: Adapted, watched: Source) -> float | None:
    labels = watched.split.labels
    if not len(labels):
        return None
    model.vit.eval()
    correct = 0
    for rows in batches(len(labels)):
        logits = model.head(watched.features(rows).float())
        correct += int((logits.argmax(dim=1).numpy() == labels[rows]).sum())
    return correct / len(labels)


def _use_explicit_attention(vit: VisionTransformer) -> VisionTransformer:
    # on a CPU, training through bfloat16 scaled_dot_product_attention takes nearly twice as long
    for module in vit.modules():
        if isinstance(module, Attention):
            module.fused_attn = False
    return vit
