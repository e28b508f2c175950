"""From bytes to RGB pixels, upright. Nothing but `ImageError` is raised, whatever the bytes are."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from store.errors import ImageError
from store.images.exif import ORIENTATION, exif_orientation, xmp_orientation
from store.images.headers import ImageHeader, read_header
from store.images.limits import FORMATS, REMEDY, check_scans, check_size

SHADES = [value // 257 for value in range(1 << 16)]  # 16-bit grey to 8 bits
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's orientation
RAW_EXIF = "Raw profile type exif"  # as ImageMagick keeps it in a PNG


def decode(data: bytes, header: ImageHeader | None = None) -> Image.Image:
    """Decode to RGB, upright as its EXIF orientation says; raise `ImageError` on anything else.

    Pixels, proportions and scans are read from the header and checked before any pixel is decoded.
    """
    try:
        header = header or read_header(data)
        check_header(header)
        if header.rgb and (pixels := _jpeg_pixels(header.bare or data, header)) is not None:
            return upright(pixels, header.orientation or 1)
        with Image.open(io.BytesIO(header.bare or data), formats=FORMATS) as image:
            check_size(*image.size)
            image.load()
            orientation = stored_orientation(image) if header.orientation is None else header.orientation
            return upright_rgb(image, orientation, owned=True)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"image is too large to decode safely: {REMEDY}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{len(data)} bytes beginning {data[:8]!r} are not an image: {REMEDY}") from None
    except Exception as error:  # a decoder raises whatever its parser stumbles over
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"image cannot be decoded ({problem}): {REMEDY}") from None


def _jpeg_pixels(data: bytes, header: ImageHeader) -> Image.Image | None:
    """Decode without Pillow's reading of the header, a third of a small image's time; None where it fails."""
    try:
        return Image.frombytes("RGB", (header.width, header.height), data, "jpeg", "RGB", "")
    except (ValueError, OSError):  # the usual way says what is wrong
        return None


def check_header(header: ImageHeader) -> None:
    """Raise `ImageError` where the header alone says that the image is not decoded."""
    check_scans(header.scans)
    check_size(header.width, header.height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image upright as its EXIF orientation says, and to RGB: transparency is dropped, 16-bit grey scaled."""
    try:
        return upright_rgb(image, stated_orientation(image))
    except (OSError, SyntaxError, ValueError) as error:  # of a file that Pillow reads only now
        raise ImageError(f"image cannot be decoded ({' '.join(str(error).split())[:200]}): {REMEDY}") from None


def upright(image: Image.Image, orientation: int) -> Image.Image:
    method = TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def upright_rgb(image: Image.Image, orientation: int, *, owned: bool = False) -> Image.Image:
    """Return it in RGB and upright, without the metadata that says otherwise; one that is `owned` may be the result."""
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to 255 on conversion, which turns most of such an image white.
        image = image.convert("I").point(SHADES, "L")
    rgb = upright(image if owned and image.mode == "RGB" else image.convert("RGB"), orientation)
    rgb.info = {}
    return rgb


def stated_orientation(image: Image.Image) -> int:
    """Return what an image of a caller says of itself, 1 where its EXIF cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises whatever its parser stumbles over
        return 1


def stored_orientation(image: Image.Image) -> int:
    """Return what a file says that Pillow has loaded, whose EXIF is not to be trusted."""
    info = image.info
    exif, raw, xmp = info.get("exif"), info.get(RAW_EXIF), info.get("xmp") or info.get("XML:com.adobe.xmp")
    if isinstance(exif, bytes) and (found := exif_orientation(exif)):
        return found
    if isinstance(raw, str) and (found := exif_orientation(_from_hex(raw))):
        return found
    if isinstance(xmp, str):
        xmp = xmp.encode(errors="replace")
    return (xmp_orientation(xmp) if isinstance(xmp, bytes) else None) or 1


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""
