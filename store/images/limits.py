"""How large and how odd an image may be; each limit is checked before the work that it bounds."""

from __future__ import annotations

from store.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 50_000_000  # as decoded, and again as resized
MAX_ASPECT = 100  # the longer side over the shorter; a panorama has 10
MAX_SCANS = 100  # of a progressive JPEG; encoders write 6 to 14
MAX_PARTS = 100_000  # segments or chunks of a file
REMEDY = f"send a JPEG, PNG, WebP or BMP of at most {MAX_PIXELS:,} pixels"


def check_size(width: int, height: int) -> None:
    """Raise `ImageError` where the image has too many pixels, or is too long and thin."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"image of {width:,} x {height:,} pixels is too large: {REMEDY}")
    if max(width, height) > MAX_ASPECT * min(width, height) > 0:
        raise ImageError(
            f"image of {width:,} x {height:,} pixels is too long and thin: send one whose longer side is at most "
            f"{MAX_ASPECT} times the shorter"
        )


def check_scans(scans: int) -> None:
    if scans > MAX_SCANS:
        raise ImageError(f"JPEG of more than {MAX_SCANS} scans: save it as a baseline JPEG, or with fewer")
