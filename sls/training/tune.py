"""Train an adapter and a linear head on blocks 1..depth of a frozen backbone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from timm.layers import Attention
from timm.models.swin_transformer import WindowAttention

from sls.adapters.methods import METHODS
from sls.adapters.model import AdaptedModel, TunedModel, linear
from sls.data.dataset import Dataset, Transform
from sls.progress import Progress, ProgressCallback
from sls.training.augmentation import NONE, Augmentation
from sls.training.checkpoint import TrainingCheckpoint, run_of
from sls.training.feature_cache import FeatureCache, FrozenOutputs
from sls.training.frozen_prefix import FeatureSource, batches
from sls.training.recipe import TrainingConfig
from sls.training.trainer import Trainer, to_bfloat16
from store.errors import DataError
from store.weights.backbones import Backbone
from store.weights.supported import TimmModel


@torch.random.fork_rng(devices=())
def tune(
    dataset: Dataset,
    backbone: Backbone,
    start: TunedModel,
    config: TrainingConfig,
    *,
    transform: Transform,
    stage: str,
    progress: ProgressCallback,
    checkpoint: Path | None = None,
    cache: FeatureCache | None = None,
) -> TunedModel:
    """Train from `start`, at its depth; the backbone's own weights do not change.

    A start without tensors gets fresh adapters, as the config says. Each epoch is written to the file `checkpoint`; an
    interrupted run resumes from it and ends with the same bits as a run without interruption. `cache` shares what
    frozen blocks make of images with other trainings, and changes no bit of the result.

    Raises `DataError` for patience without validation images, `InvalidSettingError` if no block is adapted,
    `ConflictError` for a checkpoint of another config, backbone, start or data, `FormatError` for a damaged one.
    """
    if config.patience and not len(dataset.validation):
        raise DataError(f"{dataset.name}: patience {config.patience} needs validation images: give some, or patience 0")
    if not start.adapter:
        start = replace(start, method=config.method, from_block=config.from_block, scale=config.scale)
    torch.manual_seed(config.seed)
    wrapped = METHODS[start.method].wrap(backbone, start, torch.float32)
    model = AdaptedModel(_use_explicit_attention(wrapped.vit), linear(start.weight, start.bias))
    weights, frozen = to_bfloat16(model), start.from_block - 1
    augment = Augmentation(config.augment, seed=config.seed) if config.augment != NONE else None
    kept = 0 if config.varies else frozen
    known = FrozenOutputs(cache, backbone.record.id.fingerprint, frozen) if cache and frozen else None
    source = FeatureSource(model.vit, dataset.train, transform, frozen=kept, augment=augment, known=known)
    trainer = Trainer(model, weights, source, config)
    validation = FeatureSource(model.vit, dataset.validation, transform, frozen=frozen, known=known)
    saved = TrainingCheckpoint(checkpoint, run_of(dataset, backbone, start, config)) if checkpoint else None
    if saved and (state := saved.read()):
        trainer.restore(state)
    began, resumed = time.monotonic(), trainer.epoch
    while not trainer.done:
        loss = trainer.run_epoch()
        accuracy = _accuracy(model, validation)
        trainer.keep_best(accuracy)
        if saved:
            saved.write(trainer.state())
        left = (time.monotonic() - began) / (trainer.epoch - resumed) * (config.epochs - trainer.epoch)
        progress(Progress(stage, trainer.epoch, config.epochs, left, loss=loss, accuracy=accuracy))
    trainer.finish()
    adapter = {key: value.detach().float().clone() for key, value in wrapped.collect().items()}
    return replace(start, adapter=adapter, weight=model.head.weight.detach(), bias=model.head.bias.detach())


@torch.inference_mode()
def _accuracy(model: AdaptedModel, source: FeatureSource) -> float | None:
    labels = source.split.labels
    if not len(labels):
        return None
    model.vit.eval()
    correct = 0
    for rows in batches(len(labels)):
        logits = model.head(source.features(rows).float())
        correct += int((logits.argmax(dim=1).numpy() == labels[rows]).sum())
    return correct / len(labels)


def _use_explicit_attention(vit: TimmModel) -> TimmModel:
    # on a CPU, training takes nearly twice as long with scaled_dot_product_attention in bfloat16
    for module in vit.modules():
        if isinstance(module, (Attention, WindowAttention)):
            module.fused_attn = False
    return vit
