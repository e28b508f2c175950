"""What a safetensors file holds, checked more strictly than its own loader does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from store.errors import FormatError, RefusedError

MAX_HEADER_NBYTES = 1 << 22  # room for 40,000 tensors; the format's own bound of 100 MB would take 1 GB to decode
MAX_RANK = 64  # PyTorch's bound
REMEDY = "save it again with safetensors, or fetch it again"


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's place: `offset` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class _Exponent:
    """The bits that are all set in an infinity or a NaN, in the two highest bytes of a little-endian float."""

    top: re.Pattern[bytes]
    next_mask: int


WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
EXPONENTS = {
    "F16": _Exponent(re.compile(rb"[\x7c-\x7f\xfc-\xff]"), 0x00),
    "BF16": _Exponent(re.compile(rb"[\x7f\xff]"), 0x80),
    "F32": _Exponent(re.compile(rb"[\x7f\xff]"), 0x80),
    "F64": _Exponent(re.compile(rb"[\x7f\xff]"), 0xF0),
}


def check_tensors(data: bytes, source: str) -> dict[str, TensorInfo]:
    """Return every tensor of a whole, well-formed file of finite numbers, in the order of the file."""
    infos = parse_header(data, len(data), source)
    for name, info in infos.items():
        if not _is_finite(data, info):
            raise RefusedError(
                f"{source}: tensor {name[:120]!r} has a NaN or an infinity: train it again from before it diverged"
            )
    return infos


def header_nbytes(prefix: bytes, source: str) -> int:
    """Return the size of the length field and the JSON that it announces."""
    if len(prefix) < 8:
        raise FormatError(f"{source} has {len(prefix)} bytes, a safetensors file at least 8: {REMEDY}")
    return 8 + int.from_bytes(prefix[:8], "little")


def check_header(file: BinaryIO, nbytes: int, source: str) -> None:
    """Raise `FormatError` unless the file of `nbytes` bytes, read from its start, has a sound header."""
    prefix = file.read(8)
    prefix += file.read(min(header_nbytes(prefix, source) - 8, MAX_HEADER_NBYTES))
    parse_header(prefix, nbytes, source)


def parse_header(prefix: bytes, nbytes: int, source: str) -> dict[str, TensorInfo]:
    """Return every tensor of a file of `nbytes` bytes, of which `prefix` holds at least the header."""
    start = header_nbytes(prefix, source)
    if start - 8 > MAX_HEADER_NBYTES:
        raise FormatError(
            f"{source}: its header takes {start - 8} bytes, at most {MAX_HEADER_NBYTES} are read: "
            f"no safetensors, or no adapter or backbone; {REMEDY}"
        )
    if start > min(len(prefix), nbytes):
        raise FormatError(
            f"{source}: its header should take {start} of {nbytes} bytes: cut short or no safetensors; {REMEDY}"
        )
    entries = _decode(prefix[8:start], source)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(value) is str for value in metadata.values()):
        raise FormatError(f"{source}: __metadata__ must map strings to strings: {REMEDY}")
    infos = {name: _parse_entry(entry, start, f"{source}: tensor {name[:120]!r}") for name, entry in entries.items()}
    in_order = dict(sorted(infos.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
    _check_contiguous(in_order, start, nbytes, source)
    return in_order


def _decode(header: bytes, source: str) -> dict[str, object]:
    if not header.startswith(b"{"):
        raise FormatError(f"{source}: its header does not start with '{{': {REMEDY}")
    try:
        text = header.decode("utf-8", "strict")
        entries = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        "".join(entries).encode()  # JSON can spell lone surrogates, UTF-8 cannot
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source}: its header is not valid JSON ({error}): {REMEDY}") from None
    return dict(entries)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key occurs twice")
    return entries


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _parse_entry(entry: object, start: int, subject: str) -> TensorInfo:
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{subject} must have exactly dtype, shape and data_offsets: {REMEDY}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise FormatError(f"{subject} has dtype {_shorten(dtype)}, known are {', '.join(WIDTHS)}: convert it")
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise FormatError(f"{subject} must have sizes >= 0 as shape and two as data_offsets: {REMEDY}")
    nbytes = math.prod(shape) * WIDTHS[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise FormatError(
            f"{subject}: {dtype} {str(shape)[:80]} takes {str(nbytes)[:40]} bytes, "
            f"its offsets {offsets} do not: {REMEDY}"
        )
    return TensorInfo(dtype, tuple(shape), start + offsets[0], nbytes)


def _shorten(value: object) -> str:
    return repr(value)[:40] if isinstance(value, str) else f"a {type(value).__name__}"


def _is_sizes(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_RANK
        and all(type(size) is int and 0 <= size < 2**63 for size in value)
    )


def _check_contiguous(infos: Mapping[str, TensorInfo], start: int, nbytes: int, source: str) -> None:
    end = start
    for name, info in infos.items():
        if info.offset != end:
            raise FormatError(f"{source}: tensor {name[:120]!r} starts at byte {info.offset}, expected {end}: {REMEDY}")
        end += info.nbytes
    if end != nbytes:
        problem = "cut short" if nbytes < end else "followed by bytes of nothing"
        raise FormatError(f"{source} is {problem}: {nbytes} bytes, its header promises {end}; {REMEDY}")


def _is_finite(data: bytes, info: TensorInfo) -> bool:
    """Look only at the bytes of the exponent: numpy is not at hand where a store is listed."""
    exponent = EXPONENTS.get(info.dtype)
    if exponent is None:
        return True
    width, end = WIDTHS[info.dtype], info.offset + info.nbytes
    top = data[info.offset + width - 1 : end : width]
    following = data[info.offset + width - 2 : end : width]
    mask = exponent.next_mask
    return not any(following[match.start()] & mask == mask for match in exponent.top.finditer(top))


def parse_view(view: memoryview, source: str) -> dict[str, TensorInfo]:
    """Do what `store.tensors.parse_header` does, copying the header alone."""
    return parse_header(bytes(view[: header_nbytes(bytes(view[:8]), source)]), len(view), source)
