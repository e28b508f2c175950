"""The tensors of a safetensors file as bytes: renamed, moved and written again without a tensor library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from store.adapters.safetensors_header import WIDTHS, parse_header


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's dtype as safetensors calls it, its shape and its bytes, which may be a part of a file's."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def read_stored(data: bytes, source: str) -> dict[str, StoredTensor]:
    """Return the tensors of a whole file by name, in the order of the file; raise `FormatError` where it is not one."""
    view = memoryview(data)
    return {
        name: StoredTensor(info.dtype, info.shape, view[info.offset : info.offset + info.nbytes])
        for name, info in parse_header(data, len(data), source).items()
    }


def write_stored(tensors: Mapping[str, StoredTensor]) -> bytes:
    """Encode as safetensors without metadata, the widest numbers first, so that every tensor is aligned."""
    names = sorted(tensors, key=lambda name: (-WIDTHS[tensors[name].dtype], name))
    header, end = {}, 0
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(tensor.data)],
        }
        end += len(tensor.data)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return b"".join((len(encoded).to_bytes(8, "little"), encoded, *(tensors[name].data for name in names)))
