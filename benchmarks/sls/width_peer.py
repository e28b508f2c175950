"""Torch-Pruning's own result on a tuned task: its recipe for ViT on the merged model, then tuned again as ours is.

The recipe (examples/transformers/prune_timm_vit.py) takes the same share of every width away, the width that all blocks
share and the dimensions of heads included, by the group Taylor importance of gradients on training images. `ratio_for`
finds the share at which the blocks keep so many operations. LoRA and the head are then trained on the pruned model with
the recipe, epochs and seed of the others. Needs `pip install torch-pruning==1.6.1`.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.registry.width_pruned import prune_by, saved
from sls.adapters.model import AdaptedModel
from sls.data.dataset import Split, Transform
from sls.training.frozen_prefix import FeatureSource, batches
from sls.training.recipe import TrainingConfig
from sls.training.trainer import Trainer, to_bfloat16
from store.records.evidence import Accuracy

TAYLOR_BATCH, TAYLOR_BATCHES = 64, 10  # the recipe's
RANK = 8
STEPS = 12  # of the search for a ratio


@dataclass(frozen=True)
class PeerResult:
    """The pruned and tuned model with its head, what it kept of the blocks' operations, and the file's bytes."""

    model: nn.Module
    operations: float
    one_shot: Accuracy
    test: Accuracy
    nbytes: int


def prune_and_tune(
    merged: VisionTransformer, train: Split, test: Split, transform: Transform, share: float, recipe: TrainingConfig
) -> PeerResult:
    """Prune the merged model of a task, head included, to a share of its blocks' operations, and tune it again."""
    with_gradients = add_gradients(merged, train, transform)
    whole = block_operations(merged)
    pruned = pruned_to(with_gradients, ratio_for(with_gradients, share * whole))
    operations = block_operations(pruned) / whole
    one_shot = accuracy(pruned, test, transform)
    tuned = tune_again(pruned, train, transform, recipe)
    return PeerResult(tuned, operations, one_shot, accuracy(tuned, test, transform), saved(tuned))


def add_gradients(merged: VisionTransformer, train: Split, transform: Transform) -> VisionTransformer:
    """Return a copy whose weights have the sum of their gradients over the recipe's batches."""
    model = copy.deepcopy(merged).train().requires_grad_(True)
    labels = torch.from_numpy(train.labels)
    order = train.content_order()[: TAYLOR_BATCH * TAYLOR_BATCHES]
    for start in range(0, len(order), TAYLOR_BATCH):
        rows = order[start : start + TAYLOR_BATCH]
        loss = functional.cross_entropy(model(train.inputs(rows, transform)), labels[torch.from_numpy(rows)])
        torch.autograd.backward(loss)
    return model.eval()


def pruned_to(model: VisionTransformer, ratio: float) -> VisionTransformer:
    """Return a copy without so large a part of every width, which still answers."""
    copied = copy.deepcopy(model)
    for parameter, whole in zip(copied.parameters(), model.parameters(), strict=True):
        parameter.grad = None if whole.grad is None else whole.grad.clone()
    prune_by(importlib.import_module("torch_pruning").importance.GroupTaylorImportance(), copied, ratio)
    copied.zero_grad(set_to_none=True)
    return copied.requires_grad_(False)


def ratio_for(model: VisionTransformer, operations: float) -> float:
    """Return the ratio at which the blocks keep about so many operations."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        ratio = (low + high) / 2
        low, high = (ratio, high) if block_operations(pruned_to(model, ratio)) > operations else (low, ratio)
    return high


def block_operations(model: VisionTransformer) -> int:
    """Return the multiplications of all blocks for one image: of the linear maps, and of attention."""
    tokens, total = model.patch_embed.num_patches + model.num_prefix_tokens, 0
    for block in model.blocks:
        maps = [module for module in block.modules() if isinstance(module, nn.Linear)]
        total += sum(tokens * each.in_features * each.out_features for each in maps)
        total += 2 * tokens**2 * block.attn.proj.in_features
    return total


def tune_again(
    pruned: VisionTransformer, train: Split, transform: Transform, recipe: TrainingConfig
) -> VisionTransformer:
    """Train LoRA and the head on the pruned model, and merge them."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(recipe.seed)
        model = copy.deepcopy(pruned)
        head, model.head = model.head.requires_grad_(True), nn.Identity()
        targets = [
            name for name, module in model.blocks.named_modules(prefix="blocks") if isinstance(module, nn.Linear)
        ]
        peft = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets))
        adapted = AdaptedModel(peft.base_model.model, head)
        weights = to_bfloat16(adapted)
        trainer = Trainer(adapted, weights, FeatureSource(adapted.vit, train, transform, frozen=0), recipe)
        while not trainer.done:
            trainer.run_epoch()
        trainer.finish()
        merged = peft.float().merge_and_unload()
        merged.head = head
    return merged.eval().requires_grad_(False)


@torch.inference_mode()
def accuracy(model: Callable[[Tensor], Any], split: Split, transform: Transform) -> Accuracy:
    correct = 0
    for rows in batches(len(split)):
        correct += int((model(split.inputs(rows, transform)).argmax(dim=1).numpy() == split.labels[rows]).sum())
    return Accuracy(correct, len(split))
