"""The segments of a JPEG: its size, how many scans it has, and the same file without its metadata."""

from __future__ import annotations

import re
import struct

from store.errors import ImageError
from store.images.exif import exif_orientation, xmp_orientation
from store.images.limits import MAX_PARTS, MAX_SCANS, REMEDY

JPEG_MAGIC = b"\xff\xd8\xff"
SOI, EOI, SOS, COM, APP0, APP1, APP14 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE0, 0xE1, 0xEE
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
BASELINE = frozenset({0xC0, 0xC1})
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
METADATA = frozenset({COM, *range(0xE0, 0xF0)}) - {APP0, APP14}  # those two say how colours are coded
PLAIN_PARTS, PLAIN_SCANS = 64, 4
# One 0xFF: a marker may have many before it, but to look for them all takes the square of their number.
MARKER = re.compile(rb"\xff([^\x00\xff])")
NEXT_SEGMENT = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # after coded data, in which 0xFF is followed by these


class JpegWalk:
    """What the markers say; coded data is searched, not decoded."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._kept: list[tuple[int, int]] = []  # the spans without metadata, up to the first scan
        self._has_metadata = False
        self._parts = 0
        self.frames: list[int] = []
        self._layers = self._bits = 0
        self._has_gaps = False
        self.width = self.height = 0
        self.orientation = 1
        first_scan = self._walk(2)
        # In coded data a marker cannot occur by chance, so this counts too many but never too few.
        self.scans = max(1, data.count(b"\xff\xda", first_scan))
        if self.scans > MAX_SCANS:  # files that stand behind the image may hold some
            self.scans = self._count_scans(first_scan)
        self.plain = (
            len(self.frames) == 1
            and self.frames[0] in BASELINE
            and self._parts <= PLAIN_PARTS
            and self.scans <= PLAIN_SCANS
        )
        self.rgb = self.plain and (self._bits, self._layers) == (8, 3) and not self._has_gaps

    def without_metadata(self) -> bytes | None:
        """Return the file without what Pillow would read and nobody needs; None where there is nothing of it."""
        return b"".join(self._data[start:end] for start, end in self._kept) if self._has_metadata else None

    def _walk(self, position: int) -> int:
        """Read the segments before the first scan, and return where it begins."""
        data, xmp = self._data, None
        exif: int | None = None
        self._kept.append((0, 2))
        while match := MARKER.search(data, position):
            marker, start, body = match[1][0], match.start(), match.end()
            self._has_gaps |= start > position
            if marker in (SOS, EOI):
                self._kept.append((start, len(data)))
                self.orientation = exif or xmp or 1
                return start
            end = body if marker in ALONE else body + struct.unpack_from(">H", data, body)[0]
            self._count_part()
            if marker in FRAMES:
                self.frames.append(marker)
                self._bits, self.height, self.width, self._layers = struct.unpack_from(">BHHB", data, body + 2)
            if marker in METADATA:
                self._has_metadata = True
                if marker == APP1:
                    segment = data[body + 2 : end]
                    exif = exif or (exif_orientation(segment) if segment.startswith(b"Exif\0\0") else None)
                    xmp = xmp or xmp_orientation(segment)
            else:
                self._kept.append((start, end))
            position = max(end, body)
        return len(data)

    def _count_scans(self, position: int) -> int:
        """Count the scans as a decoder meets them, up to the end of the image and to one more than may be."""
        data, scans = self._data, 0
        while scans <= MAX_SCANS and (match := NEXT_SEGMENT.search(data, position)):
            marker, position = match[1][0], match.end()
            if marker == EOI:
                break
            self._count_part()
            scans += marker == SOS
            if marker not in ALONE and position + 2 <= len(data):
                position += struct.unpack_from(">H", data, position)[0]
        return scans

    def _count_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ImageError(f"image of more than {MAX_PARTS:,} segments: {REMEDY}")
