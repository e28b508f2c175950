"""Attacks on the decoding of images: bombs of every format, torn files, files that are two things at once."""

from __future__ import annotations

import functools
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

from PIL import Image

from support.hostile.cases import ANSWERED, ANSWERED_OR_REFUSED, PREDICT, REFUSED, Case, Expect, Steps, post

Make = Callable[[], bytes]
PNG = b"\x89PNG\r\n\x1a\n"
MOST_SIDE = 7_000  # squared, just below the pixels that a server may take
FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "progressive JPEG": ("JPEG", {"quality": 90, "progressive": True}),
    "PNG": ("PNG", {}),
    "BMP": ("BMP", {}),
    "lossy WebP": ("WEBP", {"quality": 80}),
    "lossless WebP": ("WEBP", {"lossless": True}),
    "GIF": ("GIF", {}),
    "TIFF": ("TIFF", {"compression": "tiff_lzw"}),
    "JPEG 2000": ("JPEG2000", {}),
    "ICO": ("ICO", {}),
    "PPM": ("PPM", {}),
    "TGA": ("TGA", {}),
}
READ = ("JPEG", "progressive JPEG", "PNG", "BMP", "lossy WebP", "lossless WebP")


def photo(width: int = 120, height: int = 90, mode: str = "RGB") -> Image.Image:
    noise = random.Random(width).randbytes(width * height * len(mode))
    return Image.frombytes(mode, (width, height), noise)


@functools.cache
def saved(name: str) -> bytes:
    kind, options = FORMATS[name]
    return write(photo(64, 64) if kind == "ICO" else photo(), kind, **options)


def write(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def flat(mode: str, width: int, height: int, kind: str = "PNG", **options: object) -> Make:
    return lambda: write(Image.new(mode, (width, height)), kind, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, color: int = 2, interlaced: bool = False) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    return b"".join((PNG, chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")))


def zeros(nbytes: int) -> bytes:
    deflate = zlib.compressobj(9)
    return b"".join([deflate.compress(bytes(1 << 20)) for _ in range(nbytes >> 20)]) + deflate.flush()


def interlaced() -> bytes:
    """Return 49 Mpx in seven passes of zeros."""
    return png(MOST_SIDE, MOST_SIDE, chunk(b"IDAT", zeros(50 << 20)), color=0, interlaced=True)


def many_scans(scans: int, side: int) -> bytes:
    """Return a progressive JPEG of this side with so many scans of ten bytes each, none of which has data."""
    small = write(Image.new("L", (8, 8)), "JPEG", progressive=True)
    frame = small.index(b"\xff\xc2")
    first = small.index(b"\xff\xda")
    size = struct.pack(">HH", side, side)
    header = small[: frame + 5] + size + small[frame + 9 : first]
    return header + b"\xff\xda\0\x08\x01\x01\0\x01\x3f\x00" * scans + b"\xff\xd9"


def resized_jpeg(width: int, height: int) -> bytes:
    """Return a JPEG whose header says another size than it has."""
    data = saved("JPEG")
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def with_segment(marker: int, data: bytes) -> bytes:
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data
    return saved("JPEG")[:2] + segment + saved("JPEG")[2:]


def exif(*entries: bytes, tail: bytes = b"") -> bytes:
    """Return a JPEG with these entries of twelve bytes in its first directory."""
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)
    return with_segment(0xE1, b"Exif\0\0" + tiff + tail)


ROTATED = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)


def webp_header(width: int, height: int) -> bytes:
    """Return a lossless WebP of 34 bytes that says how large it is and little more."""
    bits = (width - 1) | (height - 1) << 14
    body = b"VP8L" + struct.pack("<I", 14) + b"\x2f" + struct.pack("<I", bits) + bytes(9)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def animation(kind: str, frames: int) -> bytes:
    first, *others = [Image.new("P", (64, 64), index % 2) for index in range(frames)]
    return write(first, kind, save_all=True, append_images=others, duration=1)


def bmp(width: int, height: int, *, bits: int = 24, compression: int = 0, body: bytes = b"") -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + info + body


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.png", bytes(8 << 20))
    return out.getvalue()


def tiff_loop() -> bytes:
    """Return a TIFF whose directory names itself as the next."""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8)


SVG = b'<?xml version="1.0"?><!DOCTYPE s [' + b"".join(
    b'<!ENTITY l%d "%b">' % (i, b"&l%d;" % (i - 1) * 10 if i else b"x" * 10) for i in range(10)
) + b']><svg xmlns="http://www.w3.org/2000/svg"><text>&l9;</text></svg>'  # fmt: skip

BOMBS: dict[str, tuple[Make, Expect]] = {
    "PNG of 50,000 x 50,000": (lambda: png(50_000, 50_000, chunk(b"IDAT", zeros(1 << 20))), REFUSED),
    "PNG of 2 ** 31 - 1 squared": (lambda: png((1 << 31) - 1, (1 << 31) - 1), REFUSED),
    "PNG of no pixels": (lambda: png(0, 0), REFUSED),
    "PNG strip of 10,000 x 1": (flat("RGB", 10_000, 1), ANSWERED_OR_REFUSED),
    "PNG strip of 200,000 x 1": (flat("RGB", 200_000, 1), REFUSED),
    "PNG strip of 1 x 200,000": (flat("RGB", 1, 200_000), REFUSED),
    "PNG strip of 2 x 20,000,000": (flat("1", 2, 20_000_000), REFUSED),
    "PNG of 49 Mpx": (flat("L", MOST_SIDE, MOST_SIDE), ANSWERED_OR_REFUSED),
    "PNG of 49 Mpx in 16-bit grey": (flat("I;16", MOST_SIDE, MOST_SIDE), ANSWERED_OR_REFUSED),
    "PNG of 49 Mpx in one bit": (flat("1", MOST_SIDE, MOST_SIDE), ANSWERED_OR_REFUSED),
    "PNG of 49 Mpx, interlaced": (interlaced, ANSWERED_OR_REFUSED),
    "PNG with more data than pixels": (lambda: png(8, 8, chunk(b"IDAT", zeros(200 << 20))), ANSWERED_OR_REFUSED),
    "PNG with less data than pixels": (lambda: png(4_000, 4_000, chunk(b"IDAT", zeros(1 << 20))), REFUSED),
    "PNG text of 100 MB": (lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zeros(100 << 20))), REFUSED),
    "PNG profile of 100 MB": (lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + zeros(100 << 20))), REFUSED),
    "PNG of 100,000 chunks": (lambda: png(8, 8, *[chunk(b"teXt", b"a\0b")] * 100_000), REFUSED),
    "PNG with a chunk of 2 GB": (lambda: PNG + struct.pack(">I", (1 << 31) - 1) + b"IDAT", REFUSED),
    "PNG with a wrong checksum": (lambda: saved("PNG").replace(b"IHDR", b"IHDQ"), REFUSED),
    "PNG in a palette that is none": (lambda: png(8, 8, chunk(b"IDAT", zeros(1 << 20)), color=3), ANSWERED_OR_REFUSED),
    "PNG with 0 bits": (lambda: png(8, 8, chunk(b"IDAT", zeros(1 << 20)), depth=0), REFUSED),
    "PNG of 2,000 frames": (lambda: animation("PNG", 2_000), ANSWERED_OR_REFUSED),
    "JPEG of 65,535 x 65,535": (lambda: resized_jpeg(65_535, 65_535), REFUSED),
    "JPEG strip of 65,535 x 1": (flat("L", 65_500, 1, "JPEG"), ANSWERED_OR_REFUSED),
    "JPEG of no rows": (lambda: resized_jpeg(120, 0), REFUSED),
    "JPEG of 1,500 scans": (lambda: many_scans(1_500, MOST_SIDE), ANSWERED_OR_REFUSED),
    "JPEG of 15,000 scans": (lambda: many_scans(15_000, MOST_SIDE), REFUSED),
    "JPEG of 15,000 scans of few pixels": (lambda: many_scans(15_000, 500), ANSWERED_OR_REFUSED),
    "JPEG of 49 Mpx": (flat("RGB", MOST_SIDE, MOST_SIDE, "JPEG"), ANSWERED_OR_REFUSED),
    "JPEG of 49 Mpx, progressive": (flat("L", MOST_SIDE, MOST_SIDE, "JPEG", progressive=True), ANSWERED_OR_REFUSED),
    "JPEG in CMYK": (lambda: write(photo(mode="CMYK"), "JPEG"), ANSWERED),
    "JPEG with a directory that cannot be written": (
        lambda: exif(ROTATED, struct.pack(">HHII", 0x8769, 4, 1, 8), struct.pack(">HHII", 0x0100, 13, 9, 1)),
        ANSWERED_OR_REFUSED,
    ),
    "JPEG with a tag of a wrong type": (
        lambda: exif(ROTATED, struct.pack(">HHI4s", 0x9286, 12, 1, b"\xff" * 4)),
        ANSWERED_OR_REFUSED,
    ),
    "JPEG with 2 ** 32 values": (
        lambda: exif(ROTATED, struct.pack(">HHII", 0x010E, 2, (1 << 32) - 1, 0)),
        ANSWERED_OR_REFUSED,
    ),
    "JPEG with a directory in itself": (
        lambda: exif(ROTATED, struct.pack(">HHII", 0x8825, 4, 1, 8)),
        ANSWERED_OR_REFUSED,
    ),
    "JPEG turned by 99": (lambda: exif(struct.pack(">HHIHH", 0x0112, 3, 1, 99, 0)), ANSWERED_OR_REFUSED),
    "JPEG with a torn profile": (lambda: with_segment(0xE2, b"ICC_PROFILE\0\x01\x09" + bytes(99)), ANSWERED_OR_REFUSED),
    "JPEG with a preview in a preview": (lambda: with_segment(0xE2, b"MPF\0II*\0\x08\0\0\0"), ANSWERED_OR_REFUSED),
    "JPEG of markers alone": (lambda: b"\xff\xd8" + b"\xff\xd0" * 500_000 + b"\xff\xd9", REFUSED),
    "JPEG of padding alone": (lambda: b"\xff\xd8" + b"\xff" * 1_000_000, REFUSED),
    "WebP of 34 bytes and 49 Mpx": (lambda: webp_header(MOST_SIDE, MOST_SIDE), ANSWERED_OR_REFUSED),
    "WebP of 34 bytes and 268 Mpx": (lambda: webp_header(16_384, 16_384), REFUSED),
    "WebP strip of 16,383 x 1": (flat("RGB", 16_383, 1, "WEBP"), ANSWERED_OR_REFUSED),
    "WebP of 1,000 frames": (lambda: animation("WEBP", 1_000), ANSWERED_OR_REFUSED),
    "WebP longer than it is": (lambda: b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(20), REFUSED),
    "BMP of 54 bytes and 49 Mpx": (lambda: bmp(MOST_SIDE, MOST_SIDE), REFUSED),
    "BMP of 2 ** 31 - 1 squared": (lambda: bmp((1 << 31) - 1, (1 << 31) - 1), REFUSED),
    "BMP of negative size": (lambda: bmp(-8, -8, body=bytes(192)), REFUSED),
    "BMP packed, 49 Mpx": (
        lambda: bmp(MOST_SIDE, MOST_SIDE, bits=8, compression=1, body=b"\0\1"),
        ANSWERED_OR_REFUSED,
    ),
    "BMP of 3 bits": (lambda: bmp(8, 8, bits=3, body=bytes(192)), REFUSED),
    "GIF of 65,535 x 65,535": (lambda: b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",", REFUSED),
    "GIF of 2,000 frames": (lambda: animation("GIF", 2_000), REFUSED),
    "TIFF that names itself": (tiff_loop, REFUSED),
    "TIFF of 49 Mpx": (flat("L", MOST_SIDE, MOST_SIDE, "TIFF", compression="tiff_deflate"), REFUSED),
    "SVG of a billion laughs": (lambda: SVG, REFUSED),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{(/etc/passwd) run} loop\n", REFUSED),
    "PDF": (lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction 2 0 R>>endobj\n", REFUSED),
    "PSD of 30,000 x 30,000": (
        lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3),
        REFUSED,
    ),
    "FITS": (lambda: b"SIMPLE  =                    T" + b" " * 2850, REFUSED),
    "QOI of 2 ** 32 - 1 squared": (lambda: b"qoif" + b"\xff" * 8 + b"\x03\0", REFUSED),
    "a ZIP": (zipped, REFUSED),
    "nothing": (lambda: b"", REFUSED),
    "one byte": (lambda: b"\xff", REFUSED),
    "31 MB of noise": (lambda: random.Random(0).randbytes(31 << 20), REFUSED),
}

POLYGLOTS: dict[str, tuple[Make, Expect]] = {
    "JPEG and ZIP": (lambda: saved("JPEG") + zipped(), ANSWERED_OR_REFUSED),
    "PNG and PHP": (lambda: saved("PNG") + b"<?php system($_GET[0]); ?>", ANSWERED_OR_REFUSED),
    "JPEG and HTML": (lambda: with_segment(0xFE, b"--><script>alert(1)</script><!--"), ANSWERED_OR_REFUSED),
    "GIF and JavaScript": (lambda: b"GIF89a/*\0\0\0\0*/=1;alert(1)//", REFUSED),
    "BMP and PNG": (lambda: b"BM" + saved("PNG")[2:], REFUSED),
    "PNG and JPEG": (lambda: saved("PNG") + saved("JPEG"), ANSWERED_OR_REFUSED),
    "PDF and JPEG": (lambda: b"%PDF-1.7\n" + saved("JPEG"), REFUSED),
    "a pickle": (lambda: b"\x80\x04cposix\nsystem\n\x8c\x02id\x85R.", REFUSED),
}


def predicting(make: Make) -> Steps:
    return lambda: [post(PREDICT, make())]


def _torn(name: str, tenths: Sequence[int] = range(10)) -> list[Case]:
    def cut(tenth: int) -> Make:
        return lambda: saved(name)[: len(saved(name)) * tenth // 10]

    return [Case(f"torn: {name} at {tenth} tenths", predicting(cut(tenth)), REFUSED) for tenth in tenths]


CASES = [
    *[Case(f"image: {name}", predicting(make), expect) for name, (make, expect) in BOMBS.items()],
    *[Case(f"polyglot: {name}", predicting(make), expect) for name, (make, expect) in POLYGLOTS.items()],
    *[case for name in FORMATS for case in _torn(name)],
    *[
        Case(f"whole: {name}", predicting(functools.partial(saved, name)), ANSWERED if name in READ else REFUSED)
        for name in FORMATS
    ],
]
