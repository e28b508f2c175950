"""Images without labels, in parts that a process reads on its own: of a folder, of tars, of Parquet files."""

from __future__ import annotations

import importlib
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sls.data.image_source import SUFFIXES, FileSpan, place, read_encoded
from sls.data.left_out import LeftOut
from store.errors import DataError

PART = 512
"""Images of a part: what is read again where a run is interrupted."""
FILES, TAR, PARQUET = "files", "tar", "parquet"


@dataclass(frozen=True)
class ImagePart:
    """Some images of a source: named files below `path`, spans of the tar there, or rows of a Parquet file's group."""

    kind: str
    path: str
    names: tuple[str, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    group: int = 0
    start: int = 0
    count: int = 0

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ImagePart:
        spans = tuple((offset, nbytes) for offset, nbytes in value["spans"])
        return cls(**{**value, "names": tuple(value["names"]), "spans": spans})

    def images(self) -> Iterator[tuple[str, bytes | DataError]]:
        """Yield each image's name with its encoded bytes, or with the error of one that cannot be read."""
        if self.kind == PARQUET:
            yield from _arrow().read_rows(Path(self.path), self.group, self.start, self.count)
            return
        for index, name in enumerate(self.names):
            path = Path(self.path)
            source = FileSpan(path, *self.spans[index], name) if self.kind == TAR else path / name
            try:
                yield place(name), read_encoded(source)
            except DataError as error:
                yield place(name), error


@dataclass(frozen=True)
class ImageListing:
    """The parts of a source, how many images they have, what was left out, and a text that changes with the source."""

    parts: tuple[ImagePart, ...]
    images: int
    notes: tuple[str, ...]
    state: str


def list_images(source: str | Path, *, size: int = PART) -> ImageListing:
    """List the images of a folder, of a tar or a Parquet file, or of a folder of those; raise `DataError`."""
    root, left_out = Path(source), LeftOut()
    if "\0" in str(source) or not root.exists():
        raise DataError(f"no data at {str(source)!r}: give a folder of images, a tar or a Parquet file")
    packed = [root] if root.is_file() else sorted(path for kind in (TAR, PARQUET) for path in root.glob(f"*.{kind}"))
    if packed:
        parts = [part for path in packed for part in _packed_parts(path, size, left_out)]
        state = json.dumps([[str(path), *_stamp(path)] for path in packed])
    else:
        names = list(_files(root, root, left_out))
        chunks = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
        parts = [ImagePart(FILES, str(root.resolve()), chunk, count=len(chunk)) for chunk in chunks]
        state = json.dumps([[name, *_stamp(root / name)] for name in names])
    images = sum(part.count for part in parts)
    if not images:
        raise DataError(f"{place(root)} has no image: give a folder of images, a tar or a Parquet file")
    return ImageListing(tuple(parts), images, left_out.notes, state)


def _stamp(path: Path) -> Sequence[int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return status.st_size, status.st_mtime_ns


def _files(root: Path, folder: Path, left_out: LeftOut) -> Iterator[str]:
    """Yield the images below the folder by their paths from the root, in the order of their names."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{place(folder)} cannot be read ({error.strerror}): make it readable, or remove it") from None
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            left_out.add("hidden", path)
        elif entry.is_dir(follow_symlinks=False):
            yield from _files(root, path, left_out)
        elif path.suffix.lower() in SUFFIXES:
            yield str(path.relative_to(root))
        else:
            left_out.add("not named as an image, or a link to a folder", path)


def _packed_parts(path: Path, size: int, left_out: LeftOut) -> Iterator[ImagePart]:
    if path.suffix.lower() == f".{PARQUET}":
        for group, rows in enumerate(_arrow().row_groups(path)):
            for start in range(0, rows, size):
                count = min(size, rows - start)
                yield ImagePart(PARQUET, str(path.resolve()), group=group, start=start, count=count)
        return
    if path.suffix.lower() != f".{TAR}":
        raise DataError(f"{place(path)} is not a source of images: give a folder, a tar or a Parquet file")
    members = _members(path, left_out)
    for start in range(0, len(members), size):
        chunk = members[start : start + size]
        names, spans = tuple(name for name, *_ in chunk), tuple((offset, nbytes) for _, offset, nbytes in chunk)
        yield ImagePart(TAR, str(path.resolve()), names, spans, count=len(chunk))


def _members(path: Path, left_out: LeftOut) -> list[tuple[str, int, int]]:
    found = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    if not member.isdir():
                        left_out.add("a link or not a regular file", member.name)
                elif Path(member.name).suffix.lower() in SUFFIXES:
                    found.append((member.name, member.offset_data, member.size))
                else:
                    left_out.add("not named as an image", member.name)
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
        raise DataError(f"{place(path)} is not a readable tar ({error}): decompress it, or write it again") from None
    return found


def _arrow() -> Any:
    """Import what needs pyarrow only for a source that it reads."""
    try:
        return importlib.import_module("sls.data.arrow")
    except ModuleNotFoundError as error:
        raise DataError(f"Parquet files need {error.name}: pip install 'onetrunk[data]'") from None
