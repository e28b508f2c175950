"""From a task's files to the forms that the engine multiplies with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import cast

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor

from store.adapters.methods.targets import Config
from store.errors import FormatError
from store.records.geometry import QKV, Geometry
from store.weights.forms import Forms, TaskWeights
from store.weights.lowering import low_rank, products, scales, turns
from store.weights.lowering.custom import CUSTOM_LOWERINGS
from store.weights.lowering.deltas import Lowering, Tensors
from store.weights.lowering.finite import all_finite, not_finite, require_finite, require_finite_file

__all__ = ["ADAPTER", "HEAD", "LOWERINGS", "Lowering", "Tensors", "lower", "lower_tensors", "names_in", "with_head"]

QKV_WEIGHT = f"{QKV}.weight"
FEW_NBYTES = 8192  # of class names
ADAPTER, HEAD = "adapter_model.safetensors", "head.safetensors"


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
    """Lower a published task; its files have passed `store.adapters.checkpoint.check` with the backbone's record.

    `backbone` are the tensors of the backbone, which some methods are relative to. Raises `FormatError` where a file
    is not whole, `RefusedError` where a number is not finite in the dtype.
    """
    settings = json.loads(config)
    forms = lower_tensors(settings, _load(adapter, ADAPTER), backbone, dtype, device)
    return with_head(forms, _load(head, HEAD), labels, depth, dtype, device)


def lower_tensors(
    settings: Config, tensors: Tensors, backbone: Tensors, dtype: torch.dtype, device: str | torch.device
) -> Forms:
    """Lower the tensors of an adapter's file; raise `RefusedError` unless all numbers, before and after, are finite."""
    require_finite_file(tensors, ADAPTER)
    forms = LOWERINGS[cast(str, settings["peft_type"])](settings, tensors, backbone).to(device, dtype)
    return require_finite(_by_block(forms, backbone), dtype)


def _by_block(forms: Forms, backbone: Tensors) -> Forms:
    """Count blocks over all stages where the backbone has stages: the engine has one list of blocks."""
    if not any(
        path.startswith("layers.") for paths in (forms.deltas, forms.norms, forms.bottlenecks) for path in paths
    ):
        return forms
    maps = {name.removesuffix(".weight"): tuple(backbone[name].shape) for name in backbone if name.endswith(QKV_WEIGHT)}
    flat = Geometry.of(maps).flat
    return replace(
        forms,
        deltas={flat(path): form for path, form in forms.deltas.items()},
        norms={flat(path): form for path, form in forms.norms.items()},
        bottlenecks={flat(path): form for path, form in forms.bottlenecks.items()},
    )


def with_head(
    forms: Forms, head: Tensors, labels: bytes, depth: int, dtype: torch.dtype, device: str | torch.device
) -> TaskWeights:
    """Return the weights of a task from forms that are on the device, a copy of its head and its class names."""
    weight, bias = (head[name].to(device, dtype, copy=True) for name in ("weight", "bias"))
    if not (all_finite(weight) and all_finite(bias)):
        raise not_finite("head", dtype)
    return TaskWeights(depth, forms, weight, bias, names_in(labels))


def names_in(labels: bytes) -> tuple[str, ...]:
    """Return the class names of a task's file; where they are few, in one tuple for all tasks that have the same."""
    return _known_names(labels) if len(labels) <= FEW_NBYTES else tuple(labels.decode().splitlines())


@lru_cache(maxsize=256)
def _known_names(labels: bytes) -> tuple[str, ...]:
    return tuple(labels.decode().splitlines())


def _load(data: bytes, source: str) -> dict[str, Tensor]:
    try:
        return load(data)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{source} is not a whole safetensors file ({error}): publish the task again") from None


LOWERINGS: Mapping[str, Lowering] = MappingProxyType(
    {
        "LORA": low_rank.lower_lora, "ADALORA": low_rank.lower_adalora, "VERA": low_rank.lower_vera,
        "PVERA": low_rank.lower_pvera, "DELORA": low_rank.lower_delora, "GRALORA": low_rank.lower_gralora,
        "VBLORA": low_rank.lower_vblora, "UNILORA": low_rank.lower_unilora, "TINYLORA": low_rank.lower_tinylora,
        "LOHA": products.lower_loha, "LOKR": products.lower_lokr, "HRA": products.lower_hra,
        "MISS": products.lower_miss, "DEFT": products.lower_deft, "PEANUT": products.lower_peanut,
        "IA3": scales.lower_ia3, "BEFT": scales.lower_beft, "LN_TUNING": scales.lower_ln, "GLORA": scales.lower_glora,
        "OFT": turns.lower_oft, "BOFT": turns.lower_boft, "ROAD": turns.lower_road, **CUSTOM_LOWERINGS,
    }
)  # fmt: skip
"""By peft_type."""
