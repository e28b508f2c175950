"""The backbones that benchmarks run on beside the packaged one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from store.weights.backbones import Backbone, load_backbone


def random_vit_base() -> Backbone:
    """ViT-B/16 with random weights: speed does not depend on their values, and no download is needed."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vit_base_random.safetensors"
        save_file(timm.create_model("vit_base_patch16_224", num_classes=0).state_dict(), path)
        return load_backbone("vit_base_patch16_224", weights=path)
