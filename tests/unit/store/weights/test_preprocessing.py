from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from store.errors import ImageError
from store.records.backbone import Preprocessing
from store.weights.preprocessing import decode, make_transform


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of this size that says so and holds no pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return head + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_colour_mode_becomes_rgb_of_the_same_size(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    decoded = decode(encode(Image.new(mode, (5, 3)), kind))
    assert (decoded.mode, decoded.size) == ("RGB", (5, 3))


def test_sixteen_bit_grey_keeps_its_shades():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = np.asarray(decode(encode(Image.fromarray(ramp))))[..., 0]
    assert (decoded.reshape(-1) == np.arange(256)).all()


def test_an_image_stands_upright_as_its_exif_orientation_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encode(Image.new("RGB", (5, 3)), "JPEG", exif=exif)).size == (3, 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "are not an image"),
        (b"%PDF-1.7 ...", "are not an image: send a JPEG, PNG, WebP or BMP"),
        (png_header(50_000, 50_000), "too large"),
        (png_header(10_000, 6_000), "10,000 x 6,000 pixels is too large"),
        (encode(Image.new("RGB", (64, 64), "red"), "JPEG")[:300], "cannot be decoded"),
        (encode(Image.effect_noise((64, 64), 50).convert("RGB"))[:900], "cannot be decoded"),
        (encode(Image.new("RGB", (4, 4)), "GIF"), "are not an image"),
    ],
    ids=["nothing", "a PDF", "50,000 pixels square", "60 megapixels", "half a JPEG", "half a PNG", "a GIF"],
)
def test_what_is_no_image_that_can_be_decoded_safely_is_refused_in_one_line(data, message):
    with pytest.raises(ImageError, match=message) as refusal:
        decode(data)
    assert "\n" not in str(refusal.value)


def test_the_transform_resizes_crops_and_normalises_as_the_backbone_wants():
    preprocessing = Preprocessing(8, 8, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0, "center")
    pixels = make_transform(preprocessing)(Image.new("RGB", (20, 10), (255, 0, 255)))
    assert tuple(pixels.shape) == (3, 8, 8)
    assert pixels.amin(dim=(1, 2)).tolist() == pytest.approx([2, -2, 2])
