"""What a predictor starts with: its backbone, its dtype, and how many rows fit into memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from store.errors import BackboneNotFoundError, InvalidSettingError
from store.records.backbone import BackboneRecord
from store.registry.store import Store
from store.weights.backbones import Backbone

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ACTIVATIONS_NBYTES = 1 << 30  # of all batches that have begun, at most
HEAD_DIM = 32  # of an attention head, at least
PREFIX_TOKENS = 8  # class and register tokens, at most


def choose_dtype(name: str, device: str) -> torch.dtype:
    """Return the dtype of this name; `auto` is bfloat16 where the device multiplies it natively."""
    if name == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise InvalidSettingError(f"dtype {name!r} is not supported: use auto or one of {', '.join(DTYPES)}")
    return DTYPES[name]


def cpu_threads() -> int:
    """Return how many threads torch's operations use in this process."""
    return torch.get_num_threads()


def set_cpu_threads(count: int) -> None:
    torch.set_num_threads(count)


def cuda_name() -> str | None:
    """Return the name of the CUDA device, None without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def native_bfloat16(device: str) -> bool:
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def choose_backbone(store: Store, name: str | None) -> BackboneRecord:
    """Return the backbone of this name, or the store's only one."""
    records = choose_backbones(store, None if name is None else [name])
    if len(records) > 1:
        names = ", ".join(record.name for record in records)
        raise InvalidSettingError(f"{store.url} holds {len(records)} backbones ({names}): choose one with `backbone=`")
    return records[0]


def choose_backbones(store: Store, names: Sequence[str] | None) -> list[BackboneRecord]:
    """Return the backbones of these names, or all of the store; raise where they do not fit into memory together."""
    records = store.backbones() if names is None else [store.backbone(name) for name in names]
    if not records:
        raise BackboneNotFoundError(
            f"{store.url} holds no backbone: publish a task, or add one with `adopt_backbone(store, name)`"
        )
    distinct = list({record.id.fingerprint: record for record in records}.values())
    nbytes, most = sum(record.weights.nbytes for record in distinct if record.weights is not None), memory_nbytes() // 2
    if len(distinct) > 1 and nbytes > most:
        raise InvalidSettingError(
            f"{len(distinct)} backbones take {nbytes:,} bytes, half of this machine's memory is {most:,}: choose fewer "
            "with `backbone=`"
        )
    return distinct


def memory_nbytes() -> int:
    """Return how much memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def max_rows(backbone: Backbone, dtype: torch.dtype) -> int:
    """Return how many rows may run at a time, so that their activations fit into memory."""
    return max(1, ACTIVATIONS_NBYTES // row_nbytes(backbone, dtype))


def row_nbytes(backbone: Backbone, dtype: torch.dtype) -> int:
    """Bytes of activations that a row takes in a block, at most: its tokens and its attention's scores, each twice."""
    p, patch = backbone.record.id.preprocessing, backbone.tensors["patch_embed.proj.weight"].shape[-2:]
    tokens = (p.height // patch[0]) * (p.width // patch[1]) + PREFIX_TOKENS
    if backbone.record.geometry.staged:
        return _staged_row_nbytes(backbone, tokens, dtype)
    modules, dim = backbone.record.modules, backbone.record.dim
    width = 3 * dim + modules["blocks.0.attn.qkv"][0] + modules["blocks.0.mlp.fc1"][0]
    return 2 * tokens * (width + tokens * dim // HEAD_DIM) * dtype.itemsize


def _staged_row_nbytes(backbone: Backbone, tokens: int, dtype: torch.dtype) -> int:
    """Return the most of all stages: each has a quarter of the tokens, and its attention sees a window alone."""
    geometry, modules, most = backbone.record.geometry, backbone.record.modules, 0
    for stage, dim in enumerate(geometry.stage_dims):
        first = f"layers.{stage}.blocks.0"
        pairs, heads = backbone.tensors[f"{first}.attn.relative_position_bias_table"].shape  # more than places
        width = 3 * dim + modules[f"{first}.attn.qkv"][0] + modules[f"{first}.mlp.fc1"][0]
        most = max(most, 2 * tokens * (width + heads * pairs) * dtype.itemsize)
        tokens = tokens // 4 + PREFIX_TOKENS
    return most
