"""Where an image of a dataset is: a file, a span of a file, or bytes in memory; and what its first bytes say it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from store.adapters.regular_file import read_regular
from store.errors import DataError, FormatError, ImageError
from store.images.headers import READERS

MAX_IMAGE_NBYTES = 256 << 20  # of one encoded image
SNIFFED_NBYTES = 16
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".png", ".apng", ".webp", ".bmp", ".dib"})
UNREAD = frozenset(
    {
        ".avif", ".gif", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".svg",
        ".tga", ".tif", ".tiff", ".xcf",
    }
)  # fmt: skip  # of other image formats
UNREAD_MAGIC = (
    b"GIF8", b"II*\0", b"MM\0*", b"8BPS", b"\0\0\0\x0cjP  ", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"gimp xcf",
)  # fmt: skip
HEIF_BRANDS = (b"ftypavif", b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavis")


@dataclass(frozen=True)
class FileSpan:
    """An encoded image within a file, such as a member of a tar."""

    path: Path
    offset: int
    nbytes: int
    name: str


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image in memory; `name` says which one it is."""

    name: str
    data: bytes = field(repr=False)


EncodedSource = Path | FileSpan | EncodedImage


def read_encoded(source: EncodedSource) -> bytes:
    """Read the encoded bytes; raise `DataError` where they cannot be read."""
    try:
        if isinstance(source, EncodedImage):
            return source.data
        if isinstance(source, Path):
            return read_regular(source, limit=MAX_IMAGE_NBYTES)
        return _read_span(source)
    except (ImageError, FormatError, OSError) as error:
        raise unreadable(source, error) from None


def _read_span(span: FileSpan) -> bytes:
    if span.nbytes > MAX_IMAGE_NBYTES:
        raise ImageError(f"image of {span.nbytes:,} bytes, at most {MAX_IMAGE_NBYTES:,} are read")
    with span.path.open("rb") as file:
        file.seek(span.offset)
        data = file.read(span.nbytes)
    if len(data) < span.nbytes:
        raise ImageError(f"{span.nbytes - len(data):,} of its {span.nbytes:,} bytes are missing")
    return data


def unreadable(source: EncodedSource, error: Exception) -> DataError:
    """Return the error that names the image and what is wrong with it."""
    problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    problem = problem.removeprefix(f"{source} ")
    return DataError(f"{place(source)}: {' '.join(problem.split())}; repair or remove the file")


def place(source: object) -> str:
    """Return how a message names the image or the path, on one line, whatever bytes its name has."""
    if isinstance(source, FileSpan):
        return f"{place(source.path)}: {place(source.name)}"
    text = source.name if isinstance(source, EncodedImage) else str(source)
    return text if text.isprintable() else repr(text)[1:-1]


def is_image(head: bytes, suffix: str) -> bool:
    """Whether a file that begins so is to be decoded: by its content, or by a name that promises an image."""
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP" or suffix.lower() in SUFFIXES
    return any(head.startswith(magic) for magic in READERS) or suffix.lower() in SUFFIXES


def is_unsupported(head: bytes, suffix: str) -> bool:
    """Whether it is an image of another format, which a user would not notice if it were left out."""
    if suffix.lower() in SUFFIXES:  # decoding says what is wrong with it
        return False
    return suffix.lower() in UNREAD or head.startswith(UNREAD_MAGIC) or head[4:12] in HEIF_BRANDS
