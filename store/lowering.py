"""From a task's files to the forms that the engine multiplies with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor

from store.errors import FormatError
from store.forms import Delta, Forms, TaskWeights
from store.methods import PREFIX, Config, resolve_pattern

Tensors = Mapping[str, Tensor]
Lowering = Callable[[Config, Tensors, Tensors], Forms]
"""(config, the adapter's tensors, the backbone's tensors by timm's names) -> forms in float32."""


def lower(
    *,
    config: bytes,
    adapter: bytes,
    head: bytes,
    labels: bytes,
    depth: int,
    backbone: Tensors,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> TaskWeights:
    """Lower a published task; its files have passed `store.checkpoint.check` with the backbone's record.

    `backbone` are the tensors of the backbone, which some methods are relative to. Raises `FormatError` where a file
    is not whole.
    """
    settings = json.loads(config)
    forms = LOWERINGS[settings["peft_type"]](settings, _load(adapter, "adapter_model.safetensors"), backbone)
    weights = _load(head, "head.safetensors")
    return TaskWeights(
        depth=depth,
        forms=forms.to(device, dtype),
        head_weight=weights["weight"].to(device, dtype),
        head_bias=weights["bias"].to(device, dtype),
        labels=tuple(labels.decode().splitlines()),
    )


def lower_lora(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """y = W x + s (B A x + bias), s being LoRA's scaling (Hu et al. 2022, section 4.1)."""
    deltas = {}
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            stem = key.removesuffix(".lora_A.weight")
            path = stem.removeprefix(PREFIX)
            a, b = tensors[key].float(), tensors[f"{stem}.lora_B.weight"].float()
            scaling = lora_scaling(config, path, a.shape[0])
            bias = tensors.get(f"{stem}.lora_B.bias")
            deltas[path] = Delta(
                a.T[None], (b * scaling).T[None], None if bias is None else (bias.float() * scaling)[None, None]
            )
    return Forms(deltas)


def lora_scaling(config: Mapping[str, object], path: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) when rank-stabilised (Kalajdzievski 2023); alpha_pattern goes first."""
    alpha = cast(float, resolve_pattern(config, "alpha_pattern", path, config["lora_alpha"]))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _load(data: bytes, what: str) -> dict[str, Tensor]:
    try:
        return load(data)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{what} is not a whole safetensors file ({error}): publish the task again") from None


LOWERINGS: Mapping[str, Lowering] = MappingProxyType({"LORA": lower_lora})
