"""The layouts that products take, against the same written plainly in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.kernel_cases import best_library

from serving.kernel.library import load_library
from serving.kernel.task import BEYOND

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


@pytest.mark.parametrize(("rank", "in_"), SIZES)
def test_a_lies_in_pairs_of_numbers_by_even_ranks_with_zeros_beyond(library, rank, in_):
    a = bits(rank, in_)
    whole = zeros_up_to(a, 2, 32)
    expected = np.concatenate([whole.reshape(len(whole), -1, 2).transpose(1, 0, 2).reshape(-1), np.zeros(BEYOND)])
    result = packed(library.onetrunk_pack_a, a, rank, in_, expected.size)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("rank", "out"), SIZES)
def test_b_lies_in_tiles_of_columns_by_pairs_of_ranks_with_zeros_beyond(library, rank, out):
    b = bits(out, rank)
    whole = zeros_up_to(b, 32, 2)
    tiles = whole.reshape(-1, 16, whole.shape[1] // 2, 2).transpose(0, 2, 1, 3)
    expected = np.concatenate([tiles.reshape(-1), np.zeros(BEYOND)])
    result = packed(library.onetrunk_pack_b, b, rank, out, expected.size)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("place", [0, 1, 31, 62])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(library, place, value):
    numbers = torch.full((63,), torch.finfo(torch.bfloat16).max, dtype=torch.bfloat16)
    assert library.onetrunk_all_finite(numbers.data_ptr(), 63)
    numbers[place] = value
    assert not library.onetrunk_all_finite(numbers.data_ptr(), 63)
    assert library.onetrunk_all_finite(numbers.data_ptr(), place)
