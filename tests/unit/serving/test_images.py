from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.images import encoded
from serving.runtime.decoding import decode_source

SIZE = (9, 8)


def draw(mode: str) -> Image.Image:
    pixels = np.random.default_rng(0)
    if mode.startswith("I"):
        grey = Image.fromarray(pixels.integers(0, 65536, SIZE).astype(np.uint16))
        return grey if mode == grey.mode else grey.convert("I").convert(mode)
    return Image.fromarray(pixels.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "I", "I;16", "I;16B"])
def test_a_pillow_image_gives_the_same_pixels_in_process_and_over_http(mode: str) -> None:
    image = draw(mode)
    assert np.array_equal(decode_source(encoded(image)), decode_source(image))


def test_a_turned_photograph_is_upright_however_it_is_given(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    data = io.BytesIO()
    draw("RGB").save(data, "JPEG", exif=exif)
    (tmp_path / "photo.jpg").write_bytes(data.getvalue())
    upright = decode_source(data.getvalue())
    assert upright.size == SIZE
    with Image.open(tmp_path / "photo.jpg") as opened:
        for image in (tmp_path / "photo.jpg", opened, encoded(opened)):
            assert np.array_equal(decode_source(image), upright)
