"""Random tasks of every form that the engine serves, as its benchmarks mix them; speed does not depend on values."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import Tensor

from store.weights.backbones import Backbone
from store.weights.forms import Bottleneck, Delta, Forms, Norm, TaskWeights

RANKS = (4, 8, 16, 32, 64)
HEADS = (2, 10, 100, 1000)
KINDS = ("lora", "lora", "lora", "dora", "ia3", "ssf", "ln", "bitfit", "adaptformer", "convpass")
BESIDE = {"adaptformer": ("mlp",), "convpass": ("attn", "mlp")}


def mixed_task(backbone: Backbone, seed: int, *, dtype: torch.dtype = torch.bfloat16) -> TaskWeights:
    """Draw a task of all blocks: a method, a rank and a head's width."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    kind, rank, classes = draw.choice(KINDS), draw.choice(RANKS), draw.choice(HEADS)
    record = backbone.record

    def drawn(*shape: int, around: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=generator).mul(0.02).add(around).to(dtype)

    def delta(fan_out: int, fan_in: int) -> Delta:
        low_rank = Delta(drawn(1, rank, fan_in), drawn(1, fan_out, rank))
        scale, bias = drawn(1, 1, fan_out, around=1.0), drawn(1, 1, fan_out)
        affine = {"dora": {"out_scale": scale, "bias": bias}, "ssf": {"out_scale": scale, "bias": bias}}
        affine |= {"bitfit": {"bias": bias}}
        return replace(low_rank if kind in ("lora", "dora") else Delta(), **affine.get(kind, {}))

    def bottleneck() -> Bottleneck:
        maps = (drawn(record.dim, 8), drawn(8), drawn(8, record.dim), drawn(record.dim))
        if kind == "adaptformer":
            return Bottleneck("residual", "relu", *maps)
        return Bottleneck("normed", "quick_gelu", *maps, drawn(8, 8, 3, 3), drawn(8))

    blocks = range(record.blocks)
    deltas = {path: delta(*shape) for path, shape in record.modules.items() if kind not in ("ia3", "ln", *BESIDE)}
    if kind == "ia3":
        for path, (fan_out, fan_in) in record.modules.items():
            if path.endswith("attn.qkv"):
                deltas[path] = Delta(out_scale=drawn(1, 1, fan_out, around=1.0))
            elif path.endswith("mlp.fc2"):
                deltas[path] = Delta(in_scale=drawn(1, 1, fan_in, around=1.0))
    normed = kind in ("ln", "ssf", "bitfit")
    paths = [f"blocks.{block}.{name}" for block in blocks for name in ("norm1", "norm2")] if normed else []
    norms = {path: Norm(drawn(record.dim, around=1.0), drawn(record.dim)) for path in paths}
    places = {path: bottleneck() for block in blocks for path in (f"blocks.{block}.{p}" for p in BESIDE.get(kind, ()))}
    forms = Forms(deltas, norms, places)
    labels = tuple(f"class {index}" for index in range(classes))
    return TaskWeights(record.blocks, forms, drawn(classes, record.dim), drawn(classes), labels)
