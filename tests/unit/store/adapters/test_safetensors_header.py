from __future__ import annotations

import json
import struct
from collections.abc import Callable

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from store.adapters.safetensors_header import WIDTHS, check_tensors, parse_header
from store.errors import FormatError, OnetrunkError, RefusedError

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tensors = st.dictionaries(names, st.tuples(st.sampled_from(sorted(DTYPES)), shapes), max_size=4)


def encode(specs: dict[str, tuple[str, tuple[int, ...]]]) -> bytes:
    return save({name: torch.ones(shape, dtype=DTYPES[dtype]) for name, (dtype, shape) in specs.items()})


def assemble(header: object, body: bytes = b"", *, raw: bytes | None = None) -> bytes:
    text = json.dumps(header).encode() if raw is None else raw
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@given(tensors)
def test_what_safetensors_saves_is_described_exactly(specs: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    data = encode(specs)
    infos = check_tensors(data, "file")
    assert {name: (info.dtype, info.shape) for name, info in infos.items()} == specs
    for name, info in infos.items():
        whole = dict(safetensors.deserialize(data))[name]
        assert data[info.offset : info.offset + info.nbytes] == bytes(whole["data"])


@given(tensors, st.data())
def test_a_file_cut_short_or_extended_is_refused(
    specs: dict[str, tuple[str, tuple[int, ...]]], draw: st.DataObject
) -> None:
    data = encode(specs)
    length = draw.draw(st.integers(0, len(data) - 1))
    for torn in (data[:length], data + b"\0"):
        with pytest.raises(FormatError):
            check_tensors(torn, "file")


@given(st.binary(max_size=64))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        check_tensors(data, "file")


@settings(max_examples=300)
@given(tensors, st.data())
def test_whatever_we_accept_the_library_reads_the_same(
    specs: dict[str, tuple[str, tuple[int, ...]]], draw: st.DataObject
) -> None:
    data = bytearray(encode(specs))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        infos = check_tensors(bytes(data), "file")
    except OnetrunkError:
        return
    theirs = dict(safetensors.deserialize(bytes(data)))
    assert {n: (i.dtype, list(i.shape)) for n, i in infos.items()} == {
        n: (t["dtype"], t["shape"]) for n, t in theirs.items()
    }


@given(
    st.sampled_from(["F16", "BF16", "F32", "F64"]),
    st.integers(1, 40),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    st.data(),
)
def test_one_value_that_is_not_finite_is_found(dtype: str, size: int, bad: float, draw: st.DataObject) -> None:
    tensor = torch.randn(size).to(DTYPES[dtype])
    tensor[draw.draw(st.integers(0, size - 1))] = bad
    with pytest.raises(RefusedError, match="NaN or an infinity"):
        check_tensors(save({"before": torch.ones(3, dtype=DTYPES[dtype]), "x": tensor}), "file")


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_finite_halves_pass_and_no_others(dtype: str) -> None:
    for bits in range(0, 1 << 16, 61):
        tensor = torch.from_numpy(np.array([bits], dtype=np.uint16)).view(DTYPES[dtype])
        data = save({"x": tensor})
        if tensor.isfinite().all():
            check_tensors(data, "file")
        else:
            with pytest.raises(RefusedError):
                check_tensors(data, "file")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_finite_values_pass_however_large(values: list[float]) -> None:
    for dtype in ("F32", "F64"):
        check_tensors(save({"x": torch.tensor(values, dtype=DTYPES[dtype])}), "file")


BAD_FILES: dict[str, Callable[[], bytes]] = {
    "no header": lambda: b"1234",
    "a header longer than the file": lambda: struct.pack("<Q", 2**63) + b"{}",
    "a key that occurs twice": lambda: assemble(
        None, b"\0" * 4, raw=b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2)
    ),
    "a hole": lambda: assemble({"a": entry(), "b": entry(offsets=(8, 12))}, b"\0" * 12),
    "an overlap": lambda: assemble({"a": entry(), "b": entry(offsets=(2, 6))}, b"\0" * 6),
    "a start that is not the data's": lambda: assemble({"a": entry(offsets=(4, 8))}, b"\0" * 8),
    "bytes of nothing at the end": lambda: assemble({"a": entry()}, b"\0" * 5),
    "a shape that its bytes do not fill": lambda: assemble({"a": entry(shape=(2,))}, b"\0" * 4),
    "offsets that run backwards": lambda: assemble({"a": entry(offsets=(4, 0))}, b"\0" * 4),
    "an unknown dtype": lambda: assemble({"a": entry("F4", (8,))}, b"\0" * 4),
    "a dtype that is no string": lambda: assemble({"a": entry(["F32"])}, b"\0" * 4),
    "a negative size": lambda: assemble({"a": entry(shape=(-1, -1))}, b"\0" * 4),
    "a size that is a float": lambda: assemble({"a": entry(shape=(1.0,))}, b"\0" * 4),
    "a size that is true": lambda: assemble({"a": entry(shape=(True,))}, b"\0" * 4),
    "three offsets": lambda: assemble({"a": entry(offsets=(0, 4, 4))}, b"\0" * 4),
    "a key too many": lambda: assemble({"a": {**entry(), "x": 1}}, b"\0" * 4),
    "a tensor that is a number": lambda: assemble({"a": 1}),
    "metadata that is no string": lambda: assemble({"__metadata__": {"a": 1}}),
    "a header that is a list": lambda: assemble([]),
    "a header after spaces": lambda: assemble(None, raw=b"  {}"),
    "NaN in JSON": lambda: assemble(None, raw=b'{"a":NaN}'),
    "UTF-16": lambda: assemble(None, raw="{}".encode("utf-16")),
    "a lone surrogate": lambda: assemble(None, b"\0" * 4, raw=b'{"\\ud800":%s}' % json.dumps(entry()).encode()),
    "deep nesting": lambda: assemble(None, raw=b'{"a":' + b"[" * 100_000),
    "a number of 5,000 digits": lambda: assemble(None, raw=b'{"a":' + b"1" * 5000 + b"}"),
}


@pytest.mark.parametrize("make", BAD_FILES.values(), ids=BAD_FILES)
def test_a_malformed_file_is_refused_with_a_remedy(make: Callable[[], bytes]) -> None:
    with pytest.raises(FormatError, match=r"\w+\.safetensors.*(: |; )\w+") as caught:
        check_tensors(make(), "adapter_model.safetensors")
    assert "\n" not in str(caught.value)


def test_a_header_can_be_read_without_its_data() -> None:
    data = encode({"a": ("F32", (2, 3)), "b": ("I64", ())})
    infos = parse_header(data[: -(24 + 8)], len(data), "file")
    assert sum(info.nbytes for info in infos.values()) == 24 + 8


def test_every_dtype_has_a_width() -> None:
    assert all(width in (1, 2, 4, 8) for width in WIDTHS.values())
