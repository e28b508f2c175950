"""A small real backbone, tasks that stock PEFT leaves for it, and the two calls that most tests of the store make."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save, save_file

from store.adapters.backbone_fingerprint import fingerprint_file
from store.adapters.checkpoint import check, read_checkpoint
from store.records.backbone import BackboneId, BackboneRecord, Preprocessing
from store.registry.store import Store, Version

KINDS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
BLOCKS, DIM, CLASSES = 4, 48, 3
ARGUMENTS = {"img_size": 32, "patch_size": 8, "depth": BLOCKS, "embed_dim": DIM, "num_heads": 3}


@dataclass(frozen=True)
class Toy:
    """A real timm ViT of four blocks: its record and its weights."""

    record: BackboneRecord
    weights: bytes


def toy_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=BLOCKS, embed_dim=DIM, num_heads=3, num_classes=0
    )


def make_toy() -> Toy:
    model = toy_model()
    weights = save(model.state_dict())
    architecture = "vit_tiny_patch16_224"
    preprocessing = Preprocessing(32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.9, "center")
    fingerprint = fingerprint_file(weights, architecture, ARGUMENTS, preprocessing)
    linear = {n: m for n, m in model.named_modules() if n.startswith("blocks.") and isinstance(m, torch.nn.Linear)}
    record = BackboneRecord(
        name="toy/vit",
        id=BackboneId(architecture, ARGUMENTS, preprocessing, fingerprint),
        blocks=BLOCKS,
        dim=DIM,
        parameters=sum(tensor.numel() for tensor in model.state_dict().values()),
        block_parameters=sum(parameter.numel() for parameter in model.blocks[0].parameters()),
        nbytes=sum(tensor.nbytes for tensor in model.state_dict().values()),
        source="local",
        weights=None,
        modules={name: (layer.out_features, layer.in_features) for name, layer in linear.items()},
    )
    return Toy(record, weights)


def tune(folder: Path, *, depth: int, seed: int = 0, **options: object) -> Path:
    """Leave in the folder what stock PEFT saves for these LoRA options, with a head of three classes."""
    targets = [f"blocks.{block}.{kind}" for block in range(depth) for kind in KINDS]
    peft = get_peft_model(toy_model(), LoraConfig(**{"r": 4, "target_modules": targets, **options}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    peft.save_pretrained(folder)
    save_file({"weight": torch.randn(CLASSES, DIM), "bias": torch.zeros(CLASSES)}, folder / "head.safetensors")
    (folder / "classes.txt").write_text("rose\ntulip\npoppy\n")
    return folder


def publish(store: Store, folder: Path, task: str = "flowers", **options: object) -> Version:
    return store.publish(task, folder, **{"backbone": "toy/vit", "depth": 2, **options})


def relabel(folder: Path, *names: str) -> Path:
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def fit(folder: Path, toy: Toy, depth: int = 2) -> None:
    check(read_checkpoint(folder), toy.record, depth)


def set_option(folder: Path, **options: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def change_tensors(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None], name: str = "adapter_model"
) -> None:
    path = folder / f"{name}.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
