"""Where tasks travel to, and what they answer there with stock PEFT and timm."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load, load_file
from torch import Tensor

from store.registry.store import Store
from store.weights.backbones import Backbone
from support.toy_backbone import Toy


def backbone_of(toy: Toy) -> Backbone:
    return Backbone(toy.record, load(toy.weights))


def empty_store(root: Path) -> Store:
    return Store.open(root, create=True)


def answers(folder: Path, toy: Toy, depth: int, images: Tensor) -> Tensor:
    """logits (N, classes) of stock timm with stock PEFT's layers, read from the folder."""
    head = load_file(folder / "head.safetensors")
    model = backbone_of(toy).build(classes=len(head["bias"]))
    model.head.load_state_dict(head)
    model.blocks = model.blocks[:depth]
    peft = PeftModel.from_pretrained(model, str(folder)).eval()
    with torch.inference_mode():
        return peft(images)
