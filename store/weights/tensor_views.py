"""Tensors in the bytes of a safetensors file, without a copy."""

from __future__ import annotations

import torch
from torch import Tensor

from store.adapters.backbone_fingerprint import TORCH_NAMES
from store.adapters.safetensors_header import parse_view

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, torch_name.removeprefix("torch.")) for name, torch_name in TORCH_NAMES.items()
}


def tensors_in(view: memoryview, source: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file as parts of these bytes, which they keep alive.

    The memory must be writable, as PyTorch asks for such. Raises `FormatError` where the bytes are no such file.
    """
    tensors = {}
    for name, info in parse_view(view, source).items():
        dtype = DTYPES[info.dtype]
        count = info.nbytes // dtype.itemsize
        flat = torch.frombuffer(view, dtype=dtype, count=count, offset=info.offset) if count else _empty(dtype)
        tensors[name] = flat.view(info.shape)
    return tensors


def _empty(dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype)
