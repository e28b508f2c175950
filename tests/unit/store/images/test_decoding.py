from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from store.errors import ImageError
from store.images.decoding import decode, to_rgb, upright_rgb
from store.images.exif import exif_orientation
from store.images.headers import ImageHeader, read_header
from store.images.jpeg import JpegWalk
from store.images.limits import MAX_PARTS, MAX_SCANS


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


def jpeg(size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    return encode(Image.effect_noise(size, 60).convert("RGB"), "JPEG", **options)


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def empty_scans(count: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A progressive JPEG with so many scans of no coefficient after its own."""
    whole = jpeg(size, progressive=True)
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + b"\x00"
    return whole[:-2] + count * scan + whole[-2:]


def exif_block(*entries: tuple[int, int, int, int]) -> bytes:
    tiff = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0" + tiff + b"\0\0\0\0"


@pytest.mark.parametrize("size", [(10_000, 1), (1, 200_000), (1010, 10)])
def test_a_strip_is_refused_by_its_header(size):
    with pytest.raises(ImageError, match="too long and thin"):
        decode(png_header(*size))


@pytest.mark.parametrize("scans", [150, 10_000])
def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(scans):
    with pytest.raises(ImageError, match=f"more than {MAX_SCANS} scans"):
        decode(empty_scans(scans))


def test_a_progressive_jpeg_of_the_common_kind_is_decoded_also_with_other_files_behind_it():
    photo = jpeg(progressive=True)
    assert 1 < JpegWalk(photo).scans < 20
    behind = photo + 300 * b"\xff\xda some other file"
    assert JpegWalk(behind).scans == JpegWalk(photo).scans
    assert decode(behind).tobytes() == decode(photo).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_of_more_parts_than_any_image_needs_is_refused(kind):
    whole = jpeg() if kind == "JPEG" else encode(Image.new("RGB", (4, 4)))
    part, at = (segment(0xFE, b""), 2) if kind == "JPEG" else (b"\0\0\0\0vpAg" + struct.pack(">I", 0), 33)
    with pytest.raises(ImageError, match=f"more than {MAX_PARTS:,}"):
        decode(whole[:at] + (MAX_PARTS + 1) * part + whole[at:])


def test_exif_that_cannot_be_written_back_still_turns_the_image():
    block = exif_block((0x0112, 3, 1, 6), (0x829A, 2, 4, 0x41414141))
    data = jpeg((12, 8))
    assert decode(data[:2] + segment(0xE1, block) + data[2:]).size == (8, 12)


def test_exif_of_many_tags_over_the_same_bytes_is_not_unfolded():
    many = exif_block(*((0x9000 + index % 4096, 2, 60_000, 0) for index in range(5000)))
    data = jpeg()
    assert decode(data[:2] + segment(0xE1, many[:65_000]) + data[2:]).size == (64, 48)
    assert exif_orientation(many) is None


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_each_orientation_turns_as_pillow_turns_it(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = Image.effect_noise((9, 5), 60).convert("RGB")
    data = encode(noise, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
        turned = to_rgb(opened)
    assert decode(data).tobytes() == turned.tobytes() == expected.tobytes()
    assert to_rgb(turned).tobytes() == to_rgb(decode(data)).tobytes() == expected.tobytes(), "turned twice"


def test_grey_of_32_bits_is_clipped_to_16_and_scaled():
    grey = Image.fromarray(np.array([[-5, 0, 256, 257, 65535, 70_000]], np.int32))
    assert np.asarray(upright_rgb(grey, 1))[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize(
    ("kind", "options", "scans", "plain"),
    [
        ("JPEG", {}, 1, True),
        ("JPEG", {"quality": 100, "subsampling": 0}, 1, True),
        ("PNG", {}, 1, True),
        ("BMP", {}, 1, True),
        ("WEBP", {}, 1, True),
        ("WEBP", {"lossless": True}, 1, True),
        ("JPEG", {"progressive": True}, 10, False),
    ],
)
def test_the_header_says_the_size_and_whether_the_image_is_of_the_common_kind(kind, options, scans, plain):
    header = read_header(encode(Image.effect_noise((61, 43), 60).convert("RGB"), kind, **options))
    assert (header.width, header.height, header.scans, header.plain) == (61, 43, scans, plain)


def originals() -> list[bytes]:
    """An image of each format and coding."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((24, 17), 60)
    rgb, palette = noise.convert("RGB"), noise.convert("P")
    lossless = encode(rgb, "WEBP", lossless=True)
    animation = encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)])
    frames = encode(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)])
    return [
        encode(rgb, "JPEG", exif=exif), encode(rgb, "JPEG", progressive=True), encode(noise, "JPEG"),
        encode(rgb.convert("CMYK"), "JPEG"), encode(rgb, exif=exif), encode(palette), encode(noise.convert("I;16")),
        encode(rgb.convert("RGBA")), encode(rgb, "WEBP", exif=exif), lossless, animation, frames,
        encode(rgb, "BMP"), encode(palette, "BMP"), encode(noise.convert("1"), "BMP"),
    ]  # fmt: skip


def mutate(data: bytes, source: random.Random) -> bytes:
    """Change, cut, double or swap some of the bytes, most of them near the beginning, where the headers are."""
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 2, 5, 20))):
        at = min(int(source.expovariate(4 / len(data))), len(changed) - 1) if changed else 0
        match source.randrange(6):
            case 0 | 1 | 2:
                changed[at : at + 1] = bytes([source.choice((0, 1, 0x7F, 0x80, 0xDA, 0xFF, source.randrange(256)))])
            case 3:
                del changed[at : at + source.randrange(1, 9)]
            case 4:
                changed[at:at] = changed[at : at + source.randrange(1, 40)]
            case 5:
                other = source.randrange(len(changed) + 1)
                changed[at : at + 4] = changed[other : other + 4]
    return bytes(changed)


@pytest.mark.parametrize("seed", range(len(originals())))
def test_nothing_but_an_image_error_leaves_the_decoding_of_a_damaged_image(seed):
    original, source = originals()[seed], random.Random(seed)
    assert decode(original).mode == "RGB"
    messages = []
    for _ in range(700):
        try:
            image = decode(mutate(original, source))
            assert image.mode == "RGB"
        except ImageError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert not any("\n" in message for message in messages)


def outcome(data: bytes, header: ImageHeader) -> bytes | str:
    try:
        return decode(data, header).tobytes()
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(4))
def test_a_jpeg_is_decoded_the_same_with_and_without_pillows_reading_of_its_header(seed):
    source, decoded, refused = random.Random(seed), 0, 0
    for number in range(200):
        size = source.randrange(1, 50), source.randrange(1, 50)
        image = Image.frombytes("RGB", size, source.randbytes(3 * size[0] * size[1]))
        data = encode(image, "JPEG", quality=source.choice([30, 75, 95]), subsampling=source.randrange(3))
        data = mutate(data, source) if number % 2 else data
        try:
            header = read_header(data)
        except ImageError:
            continue
        result = outcome(data, header)
        assert result == outcome(data, replace(header, rgb=False))
        if header.rgb:
            decoded, refused = decoded + isinstance(result, bytes), refused + isinstance(result, str)
    assert decoded > 100
    assert refused > 0
