"""The one writer of files: complete and durable under their name, or not there at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.errors import OnetrunkError, ReadOnlyStoreError, StorageError

UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_synced(path: Path, data: bytes) -> None:
    # Read-only from the start: no file of a store changes once it has its name.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors on writing this path into `ReadOnlyStoreError` and `StorageError`."""
    try:
        yield
    except (FileNotFoundError, OnetrunkError):
        raise
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise ReadOnlyStoreError(
                f"{path} cannot be written ({error.strerror}): make the folder writable for this user, "
                "or work on a copy"
            ) from None
        raise StorageError(f"{path} cannot be written ({error.strerror}): check the disk and its free space") from None


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield an unused name in the path's folder; a file that still has it at the end is removed."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def synced_beside(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a synced file of these bytes, to be renamed or linked to the path; the folder is synced after that."""
    with writing(path):
        with temporary_beside(path) as temporary:
            write_synced(temporary, data)
            yield temporary
        sync_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the file by these bytes durably, or leave it as it is; raise `StorageError` where that fails."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with synced_beside(path, data) as temporary:
        temporary.replace(path)
