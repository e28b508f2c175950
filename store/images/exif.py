"""Which way up an image is, by its EXIF or XMP; bounded, and never an error."""

from __future__ import annotations

import re
import struct

ORIENTATION = 0x0112
MAX_TAGS = 512  # of the first directory; cameras write some 20
SHORT, LONG = 3, 4
XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def exif_orientation(exif: bytes) -> int | None:
    """Return the orientation in a block of EXIF, with or without its `Exif` mark; None where there is none."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        start = struct.unpack_from(f"{order}I", tiff, 4)[0]
        count = struct.unpack_from(f"{order}H", tiff, start)[0]
        for index in range(min(count, MAX_TAGS)):
            tag, kind, values = struct.unpack_from(f"{order}HHI", tiff, start + 2 + 12 * index)
            if tag == ORIENTATION and values == 1 and kind in (SHORT, LONG):
                at = start + 10 + 12 * index
                return int(struct.unpack_from(order + ("H" if kind == SHORT else "I"), tiff, at)[0])
    except struct.error:  # it ends before its directory does
        pass
    return None


def xmp_orientation(xmp: bytes) -> int | None:
    match = XMP.search(xmp)
    return int(match[1]) if match else None
