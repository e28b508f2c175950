"""From a task's files to the tensors that the engine multiplies with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor

from store.errors import FormatError
from store.methods import PREFIX, resolve_pattern


@dataclass(frozen=True)
class LowRank:
    """The delta of one linear map: y += (x @ a) @ b + bias, with LoRA's scaling within b and the bias.

    a is (1, in, rank), b is (1, rank, out) and the bias, where there is one, (1, 1, out): rows of a batch are joined
    along the first axis.
    """

    a: Tensor
    b: Tensor
    bias: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[2]

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes + (0 if self.bias is None else self.bias.nbytes)


@dataclass(frozen=True)
class TaskWeights:
    """All that the engine needs of one version: deltas by module path, head (classes, dim) and (classes,), labels."""

    depth: int
    deltas: Mapping[str, LowRank]
    head_weight: Tensor
    head_bias: Tensor
    labels: tuple[str, ...]

    @cached_property
    def nbytes(self) -> int:
        low_rank = sum(delta.nbytes for delta in self.deltas.values())
        return low_rank + self.head_weight.nbytes + self.head_bias.nbytes


def lower(
    *,
    config: bytes,
    adapter: bytes,
    head: bytes,
    labels: bytes,
    depth: int,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> TaskWeights:
    """Lower a published LoRA task; the files have passed `store.checkpoint.check`."""
    settings = json.loads(config)
    tensors = _load(adapter, "adapter_model.safetensors")
    deltas = {}
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            stem = key.removesuffix(".lora_A.weight")
            path = stem.removeprefix(PREFIX)
            a, b = tensors[key].float(), tensors[f"{stem}.lora_B.weight"].float()
            scaling = lora_scaling(settings, path, a.shape[0])
            bias = tensors.get(f"{stem}.lora_B.bias")
            deltas[path] = LowRank(
                a.T[None].to(device, dtype).contiguous(),
                (b * scaling).T[None].to(device, dtype).contiguous(),
                None if bias is None else (bias.float() * scaling)[None, None].to(device, dtype),
            )
    weights = _load(head, "head.safetensors")
    return TaskWeights(
        depth=depth,
        deltas=deltas,
        head_weight=weights["weight"].to(device, dtype),
        head_bias=weights["bias"].to(device, dtype),
        labels=tuple(labels.decode().splitlines()),
    )


def lora_scaling(config: Mapping[str, object], path: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) when rank-stabilised (Kalajdzievski 2023); alpha_pattern goes first."""
    alpha = cast(float, resolve_pattern(config, "alpha_pattern", path, config["lora_alpha"]))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _load(data: bytes, what: str) -> dict[str, Tensor]:
    try:
        return load(data)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{what} is not a whole safetensors file ({error}): publish the task again") from None
