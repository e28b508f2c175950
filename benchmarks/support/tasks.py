"""Tasks for the benchmarks: LoRAs with random weights, made without building a model for each."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import save

from store.adapters.checkpoint import CONFIG, HEAD, LABELS, WEIGHTS, parse_checkpoint
from store.adapters.methods.spec import LINEAR, block_number
from store.registry.publish import PublishOptions
from store.registry.store import Store, Version
from store.weights.backbones import Backbone

PREFIX = "base_model.model."


def lora_files(
    backbone: Backbone,
    *,
    rank: int = 8,
    depth: int | None = None,
    classes: int = 100,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    kinds: tuple[str, ...] = LINEAR,
) -> dict[str, bytes]:
    """Return the files that PEFT saves of a LoRA on these linear maps of blocks 1..depth, and those of a head."""
    generator = torch.Generator().manual_seed(seed)
    last = backbone.record.blocks if depth is None else depth
    modules = {
        path: shape
        for path, shape in backbone.record.modules.items()
        if block_number(path) <= last and path.endswith(kinds)
    }
    tensors = {}
    for path, (fan_out, fan_in) in sorted(modules.items()):
        for part, shape in (("A", (rank, fan_in)), ("B", (fan_out, rank))):
            drawn = torch.randn(shape, generator=generator) * 0.02
            tensors[f"{PREFIX}{path}.lora_{part}.weight"] = drawn.to(dtype)
    head = torch.randn(classes, backbone.record.dim, generator=generator) / 16
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": sorted(modules)}
    return {
        CONFIG: json.dumps(config).encode(),
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
        HEAD: save({"weight": head, "bias": torch.zeros(classes)}),
        LABELS: "".join(f"class {index}\n" for index in range(classes)).encode(),
    }


def publish_lora(store: Store, task: str, backbone: Backbone, **options: Any) -> Version:
    """Publish a task with random weights; options as for `lora_files`."""
    checkpoint = parse_checkpoint(lora_files(backbone, **options))
    publish = PublishOptions(backbone=backbone.record.name, depth=options.get("depth"))
    return store.publish_checkpoint(task, checkpoint, where=task, options=publish)
