"""Pixels as a file: what is decoded of it is what was given."""

from __future__ import annotations

import numpy as np
import pytest

from serving.oip.images import as_bmp
from store.images.decoding import decode
from store.images.headers import read_header


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 3), (5, 4), (33, 7)])
def test_pixels_come_out_of_the_file_as_they_were(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    made = as_bmp(pixels)
    assert read_header(made).plain
    assert np.array_equal(np.array(decode(made)), pixels)
