"""The form of tar that a bundle has: plain files under two forms of name, nothing optional, every byte determined.

A member is accepted only where its header is, byte for byte, the one that `write_member` would have written. So no
link, device, folder, sparse file, long name or pax override is ever interpreted, and no name is used as a path.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from store.backends.atomic_write import sync_file, sync_folder, temporary_beside
from store.errors import ConflictError, FormatError, InvalidSettingError, NotFoundError, OnetrunkError, StorageError

BLOCK = 512
END = bytes(2 * BLOCK)
MAX_NBYTES = 8**11 - 1  # the largest size that eleven octal digits of a POSIX header can hold
CHUNK_NBYTES = 1 << 20
INDEX = "bundle.json"
FOLDER = "blobs/"
NAME = re.compile(r"bundle\.json|blobs/[0-9a-f]{64}")
HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
REMEDY = "make it again with `export_bundle(store, refs, path)`, or copy it again"

ARCHIVES = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
FOREIGN = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"D": "a GNU folder listing",
    b"K": "a GNU long link name",
    b"L": "a GNU long name",
    b"M": "a GNU continuation",
    b"S": "a GNU sparse file",
    b"V": "a GNU volume label",
    b"g": "a global pax header",
    b"x": "a pax header",
}


@contextmanager
def new_file(destination: Path | BinaryIO) -> Iterator[BinaryIO]:
    """Give a file to write; at a path it appears whole and durable at the end, or not at all, and replaces nothing."""
    if not isinstance(destination, Path):
        yield destination
        return
    try:
        _check_free(destination)
        with temporary_beside(destination) as temporary:
            with temporary.open("xb") as file:
                yield file
            sync_file(temporary)
            _publish(temporary, destination)
            sync_folder(destination.parent)
    except OSError as error:
        if isinstance(error, OnetrunkError):
            raise
        raise StorageError(f"{destination} cannot be written ({error.strerror}): choose another place") from None


@contextmanager
def open_archive(source: Path | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    """Give the archive to read, and its name in messages; a file that is open already must be seekable."""
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                yield file, str(source)
        except (FileNotFoundError, IsADirectoryError):
            raise NotFoundError(f"no file {source}: give one that `export_bundle(store, refs, path)` wrote") from None
    elif source.seekable():
        yield source, "the bundle"
    else:
        raise InvalidSettingError("a bundle is read twice, a stream can be read once: write it to a file first")


@dataclass(frozen=True)
class Member:
    """A file in the archive: `offset` is where its bytes begin."""

    name: str
    offset: int
    nbytes: int

    @property
    def sha256(self) -> str:
        return self.name.removeprefix(FOLDER)


def blob_name(sha256: str) -> str:
    return FOLDER + sha256


def write_member(file: BinaryIO, name: str, data: bytes) -> int:
    """Append the member; return its size in the archive, in bytes."""
    assert NAME.fullmatch(name), name
    if len(data) > MAX_NBYTES:
        raise FormatError(f"{name} has {len(data)} bytes, a tar member at most {MAX_NBYTES}: leave the backbone out")
    parts = (_header(name, len(data)), data, bytes(_padding(len(data))))
    for part in parts:
        file.write(part)
    return sum(map(len, parts))


def write_end(file: BinaryIO) -> int:
    file.write(END)
    return len(END)


def read_members(file: BinaryIO, where: str) -> Iterator[Member]:
    """Yield the members from first to last, each complete and its digest checked; then only the end may follow.

    The index comes first, the blobs in ascending order, so that none can occur twice. Memory is bounded by a chunk.
    """
    nbytes, offset, last = file.seek(0, os.SEEK_END), 0, ""
    while (block := _read(file, offset, BLOCK)) != bytes(BLOCK):
        member = _parse(block, offset, nbytes, where)
        if (member.name == INDEX) != (offset == 0) or (last and member.name <= last):
            raise FormatError(f"{where}: {member.name} at byte {offset} is out of order or occurs twice: {REMEDY}")
        _check_bytes(file, member, where)
        yield member
        last = "" if offset == 0 else member.name
        offset = member.offset + member.nbytes + _padding(member.nbytes)
    if offset == 0 or _read(file, offset, len(END) + 1) != END:
        problem = "cut short" if nbytes < offset + len(END) else "followed by more bytes"
        raise FormatError(f"{where} is {'empty' if offset == 0 else problem} at byte {offset}: {REMEDY}")


def read_member(file: BinaryIO, member: Member, where: str) -> bytes:
    """Return the member's bytes; raise `FormatError` where their digest is not its name."""
    data = _read(file, member.offset, member.nbytes)
    _check_digest(member, hashlib.sha256(data).hexdigest(), where)
    return data


def _check_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise _taken(path)


def _taken(path: Path) -> ConflictError:
    return ConflictError(f"{path} exists and is not replaced: choose a new name")


def _publish(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise _taken(path) from None
    except OSError:  # no hard links on the file systems of most USB sticks
        _check_free(path)
        temporary.rename(path)


def _header(name: str, nbytes: int) -> bytes:
    zero = b"0000000\0"
    sizes = (b"%011o\0" % nbytes, b"%011o\0" % 0)  # and the time of the last change
    owner = (b"", b"", zero, zero, b"")
    fields = HEADER.pack(
        name.encode(), b"0000644\0", zero, zero, *sizes, b" " * 8, b"0", b"", b"ustar\0", b"00", *owner
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _parse(block: bytes, offset: int, nbytes: int, where: str) -> Member:
    name, digits = block[:100].rstrip(b"\0").decode("latin-1"), block[124:135]
    size = int(digits, 8) if re.fullmatch(rb"[0-7]{11}", digits) else -1
    if not NAME.fullmatch(name) or size < 0 or block != _header(name, size):
        raise FormatError(f"{where}: {_foreign(block, name, offset)}: {REMEDY}")
    member = Member(name, offset + BLOCK, size)
    if member.offset + size + _padding(size) + len(END) > nbytes:
        raise FormatError(f"{where} is cut short: {name} should have {size} bytes, the file ends at {nbytes}: {REMEDY}")
    return member


def _foreign(block: bytes, name: str, offset: int) -> str:
    """Describe what the archive has where a member of a bundle should be."""
    archive = next((kind for magic, kind in ARCHIVES.items() if offset == 0 and block.startswith(magic)), None)
    if archive is not None:
        return f"a {archive} file, a bundle is a plain tar"
    if block[257:262] != b"ustar":
        return f"no tar header at byte {offset}"
    if block[156:157] in FOREIGN:
        return f"member {name[:80]!r} at byte {offset} is {FOREIGN[block[156:157]]}, a bundle has plain files alone"
    if not NAME.fullmatch(name):
        return f"member {name[:80]!r} at byte {offset} is neither {INDEX} nor blobs/64 hex digits"
    return f"member {name[:80]!r} at byte {offset} has a header that onetrunk does not write"


def _check_bytes(file: BinaryIO, member: Member, where: str) -> None:
    digest, remaining = hashlib.sha256(), member.nbytes
    file.seek(member.offset)
    while remaining and (chunk := file.read(min(remaining, CHUNK_NBYTES))):
        digest.update(chunk)
        remaining -= len(chunk)
    if remaining or file.read(_padding(member.nbytes)).strip(b"\0"):
        raise FormatError(f"{where}: {member.name} is cut short or not padded with zeros: {REMEDY}")
    _check_digest(member, digest.hexdigest(), where)


def _check_digest(member: Member, digest: str, where: str) -> None:
    if member.name not in (INDEX, blob_name(digest)):
        raise FormatError(f"{where}: {member.name} has sha256 {digest[:16]}…, not the one that names it: {REMEDY}")


def _read(file: BinaryIO, offset: int, nbytes: int) -> bytes:
    file.seek(offset)
    return file.read(nbytes)


def _padding(nbytes: int) -> int:
    return -nbytes % BLOCK
