"""What an image's bytes say of its size and cost, read before anything is decoded.

The scan of a file's segments or chunks is bounded; what it cannot read is left to the decoder and is never `plain`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from store.errors import ImageError
from store.images.jpeg import JPEG_MAGIC, JpegWalk
from store.images.limits import MAX_PARTS, REMEDY

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PLAIN_CHUNKS = frozenset(
    b"IHDR PLTE tRNS IDAT IEND gAMA sRGB pHYs cHRM sBIT bKGD tIME tEXt eXIf".split()
)  # Pillow reads these without decompressing, and without a loop over what is in them
PLAIN_PARTS, PLAIN_ANCILLARY_NBYTES = 128, 4096


@dataclass(frozen=True)
class ImageHeader:
    """The size that an image claims, 0 x 0 where it is not known, and how often its pixels are gone through.

    `plain` says that its parts are of the common kinds, so that decoding takes a time in proportion to `work`.
    """

    nbytes: int
    width: int = 0
    height: int = 0
    scans: int = 1
    plain: bool = False
    bare: bytes | None = field(default=None, repr=False)
    """A JPEG without its metadata, where it has any that a decoder would read."""
    orientation: int | None = None
    """What a JPEG's metadata says; None where the decoder must look for itself."""
    rgb: bool = False
    """Whether it is a plain JPEG in colour, which a decoder of pixels alone can read."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def work(self) -> int:
        """Pixels that decoding goes through."""
        return self.pixels * self.scans


def read_header(data: bytes) -> ImageHeader:
    """Read the header; raise `ImageError` where it is not an image, or has more parts than any image needs."""
    read = next((read for magic, read in READERS.items() if data.startswith(magic)), None)
    if read is None:
        raise ImageError(f"{len(data)} bytes beginning {data[:8]!r} are not an image: {REMEDY}")
    try:
        return read(data)
    except (struct.error, IndexError):  # it ends before its header does: the decoder says so
        return ImageHeader(len(data))


def _read_jpeg(data: bytes) -> ImageHeader:
    walk = JpegWalk(data)
    if walk.frames and not (walk.width and walk.height):
        raise ImageError(f"image of {walk.width} x {walk.height} pixels: {REMEDY}")
    bare, orientation = walk.without_metadata(), walk.orientation
    return ImageHeader(len(data), walk.width, walk.height, walk.scans, walk.plain, bare, orientation, walk.rgb)


def _read_png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    position, parts, plain = len(PNG_MAGIC), 0, data[12:16] == b"IHDR"
    while position + 8 <= len(data):
        nbytes, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + nbytes
        parts += 1
        if parts > MAX_PARTS:
            raise ImageError(f"image of more than {MAX_PARTS:,} chunks: {REMEDY}")
        plain &= kind in PLAIN_CHUNKS and (kind in (b"IDAT", b"PLTE") or nbytes <= PLAIN_ANCILLARY_NBYTES)
        if kind == b"IEND":
            break
    return ImageHeader(len(data), width, height, plain=plain and parts <= PLAIN_PARTS)


def _read_webp(data: bytes) -> ImageHeader:
    kind, nbytes = data[12:16], len(data)
    if data[8:12] != b"WEBP":
        return ImageHeader(nbytes)
    alone = 20 + struct.unpack_from("<I", data, 16)[0] >= nbytes - 1  # no other chunk after it
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader(nbytes, width & 0x3FFF, height & 0x3FFF, plain=alone)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return ImageHeader(nbytes, (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, plain=alone)
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return ImageHeader(nbytes, width, height)
    return ImageHeader(nbytes)


def _read_bmp(data: bytes) -> ImageHeader:
    size = struct.unpack_from("<I", data, 14)[0]
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return ImageHeader(len(data), width, height)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    # Pillow decodes run lengths in Python.
    return ImageHeader(len(data), abs(width), abs(height), plain=size == 40 and compression == 0 and bits in (24, 32))


READERS: dict[bytes, Callable[[bytes], ImageHeader]] = {
    JPEG_MAGIC: _read_jpeg, PNG_MAGIC: _read_png, b"RIFF": _read_webp, b"BM": _read_bmp,
}  # fmt: skip
