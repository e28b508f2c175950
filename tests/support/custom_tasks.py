"""Tasks of the methods that PEFT lacks, with random tensors, and their logits by the modules of `sls` within timm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from sls.adapters.methods import METHODS
from sls.adapters.model import TunedModel
from sls.adapters.task_folder import read_folder, write_folder
from store.weights.backbones import Backbone
from support.oracle import TaskFolder

CUSTOM = ("convpass", "adaptformer", "houlsby", "adapter+", "ssf", "bitfit")
STD = 0.2


def random_tuned(
    backbone: Backbone,
    method: str,
    *,
    depth: int = 3,
    classes: int = 3,
    rank: int = 8,
    from_block: int = 1,
    scale: float = 0.5,
    seed: int = 0,
) -> TunedModel:
    """Draw every tensor of an adapter and a head, except for the scale where it is one number."""
    torch.manual_seed(seed)
    head = torch.randn(classes, backbone.record.width_at(depth)), torch.randn(classes)
    start = TunedModel(depth, rank, {}, *head, method, from_block, scale)
    fresh = METHODS[method].wrap(backbone, start, torch.float32).collect()
    adapter = {key: value + STD * torch.randn_like(value) if value.dim() else value for key, value in fresh.items()}
    return replace(start, adapter=adapter)


def make_custom_task(backbone: Backbone, folder: Path, method: str, **options: int) -> TaskFolder:
    """Write the folder of a random task, without a card."""
    tuned = random_tuned(backbone, method, **options)
    write_folder(folder, backbone, tuned, tuple(f"class {index}" for index in range(len(tuned.bias))))
    return TaskFolder(folder, tuned.depth)


@torch.inference_mode()
def custom_logits(
    backbone: Backbone, made: TaskFolder, images: Tensor, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Logits (classes,) of each image (n, 3, H, W) by stock timm's blocks 1..depth with the adapters in them."""
    model = read_folder(made.folder, backbone, depth=made.depth)
    return list(model.head.to(dtype)(model.vit.to(dtype)(images.to(dtype))).float())


@torch.inference_mode()
def check_merged(backbone: Backbone, tuned: TunedModel, merged: VisionTransformer) -> None:
    """Assert that `merged`, the backbone with the adapter in its weights, answers as the adapted model does."""
    images = torch.randn(2, 3, 32, 32)
    del merged.blocks[tuned.depth :]
    model = METHODS[tuned.method].wrap(backbone, tuned, torch.float32).vit.eval()
    torch.testing.assert_close(model(images), merged(images), atol=1e-4, rtol=0)
    assert (model(images) - backbone.build()(images)).abs().max() > 0.1
