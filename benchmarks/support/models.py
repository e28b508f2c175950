"""The backbones that benchmarks run on, and the options that say how."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import Backbone, load_backbone

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def backbones(*, packaged_alone: bool) -> dict[str, Backbone]:
    """Return the packaged backbone and, unless that is to be alone, a random ViT-B/16, by name."""
    packaged = {DEFAULT_BACKBONE: load_backbone(DEFAULT_BACKBONE)}
    return packaged if packaged_alone else {**packaged, "vit_base_patch16_224": random_vit_base()}


def random_vit_base() -> Backbone:
    """ViT-B/16 with random weights: speed does not depend on their values, and no download is needed."""
    return random_vit("vit_base_patch16_224")


def random_vit(architecture: str) -> Backbone:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{architecture}.safetensors"
        save_file(timm.create_model(architecture, num_classes=0).state_dict(), path)
        return load_backbone(architecture, weights=path)
