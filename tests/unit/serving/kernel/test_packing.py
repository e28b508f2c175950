"""The layouts that products take, against the same written plainly in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.kernel_cases import best_library

from serving.kernel.library import load_library
from serving.kernel.pieces import BFLOAT16, FLOAT16, FLOAT32, FLOATS, INTEGERS, NUMBERS, PIECE, ROUNDED, A, B

DTYPES = {np.float32: FLOAT32, np.float16: FLOAT16}
SIZES = [(1, 32), (2, 33), (15, 64), (16, 96), (17, 40), (31, 192), (33, 100), (70, 64), (96, 768)]


@pytest.fixture(scope="module")
def library():
    return load_library(best_library())


def bits(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 0x7F80, (rows, columns), np.uint16)


def zeros_up_to(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    out = np.zeros((-(-x.shape[0] // rows) * rows, -(-x.shape[1] // columns) * columns), np.uint16)
    out[: x.shape[0], : x.shape[1]] = x
    return out


def packed(function, x: np.ndarray, first: int, second: int, count: int) -> np.ndarray:
    out = np.full(count + 64, 0xFFFF, np.uint16)
    function(x.ctypes.data, first, second, out.ctypes.data)
    assert (out[count:] == 0xFFFF).all(), "it wrote beyond its end"
    return out[:count]


@pytest.mark.parametrize(("out", "in_"), SIZES)
def test_a_weight_lies_in_panels_slices_halves_and_pairs(library, out, in_):
    weight = bits(out, in_)
    whole = zeros_up_to(weight, 32, 32)
    panels, slices = whole.shape[0] // 32, whole.shape[1] // 32
    expected = whole.reshape(panels, 2, 16, slices, 16, 2).transpose(0, 3, 1, 4, 2, 5)
    result = packed(library.onetrunk_pack_weight, weight, out, in_, whole.size)
    np.testing.assert_array_equal(result, expected.reshape(-1))


def written(library, kind: int, numbers: np.ndarray, rows: int, columns: int, count: int, scale: float = 1.0):
    """What one piece becomes, in `count` numbers of 16 bits; None where one is not finite."""
    call = np.zeros(1, PIECE)
    call["kind"], call["rows"], call["columns"], call["scale"] = kind, rows, columns, scale
    call["from_"], call["numbers"] = numbers.ctypes.data, DTYPES.get(numbers.dtype.type, BFLOAT16)
    out = np.full(count + 64, 0xFFFF, np.uint16)
    bad = library.onetrunk_pack_task(call.ctypes.data, 1, out.ctypes.data)
    assert (out[count:] == 0xFFFF).all(), "it wrote beyond its end"
    return out[:count] if bad < 0 else None


@pytest.mark.parametrize(("rank", "in_"), SIZES)
def test_a_lies_in_pairs_of_numbers_by_even_ranks(library, rank, in_):
    a = bits(rank, in_)
    whole = zeros_up_to(a, 2, 32)
    expected = whole.reshape(len(whole), -1, 2).transpose(1, 0, 2).reshape(-1)
    np.testing.assert_array_equal(written(library, A, a, rank, in_, expected.size), expected)


@pytest.mark.parametrize(("rank", "out"), SIZES)
def test_b_lies_in_tiles_of_columns_by_pairs_of_ranks(library, rank, out):
    b = bits(out, rank)
    whole = zeros_up_to(b, 32, 2)
    expected = whole.reshape(-1, 16, whole.shape[1] // 2, 2).transpose(0, 2, 1, 3).reshape(-1)
    np.testing.assert_array_equal(written(library, B, b, out, rank, expected.size), expected)


def in_torch(numbers: np.ndarray) -> torch.Tensor:
    whole = numbers.dtype != np.uint16
    return torch.from_numpy(numbers) if whole else torch.from_numpy(numbers.view(np.int16)).view(torch.bfloat16)


def numbers_of(dtype: type) -> np.ndarray:
    """Every number of 16 bits, or many of 32: denormal ones, ties and the largest are among them."""
    if dtype != np.float32:
        return np.arange(1 << 16, dtype=np.uint16).view(dtype)
    whole = np.random.default_rng(0).integers(0, 1 << 32, 20_001, np.uint32)
    whole[:300] = whole[:300] & 0x807FFFFF
    whole[300:600] = whole[300:600] & 0xFFFF0000 | 0x8000
    return whole.view(np.float32)


@pytest.mark.parametrize("scale", [1.0, 0.7, -3.1, 2**-120])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
def test_numbers_are_scaled_and_rounded_as_torch_does(library, dtype, scale):
    numbers = numbers_of(dtype)
    exact = in_torch(numbers).float() * scale
    sound = np.isfinite(exact.numpy()) & np.isfinite(exact.bfloat16().float().numpy())
    assert sound.sum() > 10_000
    numbers, expected = numbers[sound], exact[torch.from_numpy(sound)].bfloat16()
    result = written(library, NUMBERS, numbers, numbers.size, 1, numbers.size, scale)
    np.testing.assert_array_equal(result, expected.view(torch.int16).numpy().view(np.uint16))


@pytest.mark.parametrize("dtype", [np.float16, np.uint16])
def test_each_number_of_16_bits_that_is_not_finite_is_found(library, dtype):
    numbers = numbers_of(dtype)
    for number in numbers[~np.isfinite(in_torch(numbers).float().numpy())]:
        assert written(library, NUMBERS, np.array([number]), 1, 1, 1) is None


def test_vectors_become_float32_with_zeros_up_to_their_end(library):
    numbers = np.linspace(-3, 3, 37, dtype=np.float32)
    exact = np.concatenate([numbers, np.zeros(11, np.float32)])
    np.testing.assert_array_equal(written(library, FLOATS, numbers, 37, 48, 96).view(np.float32), exact)
    rounded = in_torch(exact).bfloat16().float().numpy()
    np.testing.assert_array_equal(written(library, ROUNDED, numbers, 37, 48, 96).view(np.float32), rounded)
    integers = np.arange(-4, 4)
    np.testing.assert_array_equal(written(library, INTEGERS, integers, 8, 1, 32).view(np.int64), integers)


@pytest.mark.parametrize("place", [0, 1, 31, 62])
@pytest.mark.parametrize("kind", [A, B, NUMBERS, FLOATS, ROUNDED])
@pytest.mark.parametrize("value", [0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x7F7F_FFFF])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(library, kind, value, place):
    """The last value is the largest float32, which is an infinity in bfloat16."""
    finite = np.full(63, 0x7F7F_0000, np.uint32)
    numbers = finite.copy()
    numbers[place] = value
    shape = (9, 7) if kind in (A, B) else (63, 64)
    assert written(library, kind, finite.view(np.float32), *shape, 1024) is not None
    assert (written(library, kind, numbers.view(np.float32), *shape, 1024) is None) == (
        kind != FLOATS or value != 0x7F7F_FFFF
    )


def test_the_first_array_that_is_not_finite_is_named(library):
    numbers = np.zeros(8, np.float32)
    spoilt = np.array([np.nan], np.float32)
    calls = np.zeros(5, PIECE)
    calls["kind"], calls["rows"], calls["columns"], calls["numbers"], calls["scale"] = NUMBERS, 1, 1, FLOAT32, 1.0
    calls["from_"] = [numbers.ctypes.data] * 3 + [spoilt.ctypes.data] * 2
    assert library.onetrunk_pack_task(calls.ctypes.data, 5, numbers.ctypes.data) == 3
    assert library.onetrunk_pack_task(calls.ctypes.data, 3, numbers.ctypes.data) == -1
