"""The store's folder on disk: one table of paths, one format number, one durable writer."""

from __future__ import annotations

import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from store.errors import ConflictError, FormatError, NewerFormatError, ReadOnlyStoreError, StoreNotFoundError

STORE_FORMAT = 1
"""Raise it when an older onetrunk would misread or damage a newer store, and teach `Layout.identity` both."""

UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
BLOB_PATH = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")
CATALOGUE = "catalogue.sqlite"
SQLITE_SUFFIXES = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True)
class StoredFile:
    """A file under the root: its path relative to it, in POSIX form, and its size."""

    path: str
    nbytes: int

    @property
    def sha256(self) -> str | None:
        """The digest that the path promises, None where the file is no blob."""
        match = BLOB_PATH.fullmatch(self.path)
        return match.group(2) if match else None


@dataclass(frozen=True)
class Layout:
    root: Path

    @property
    def identity_file(self) -> Path:
        return self.root / "store.json"

    @property
    def catalogue(self) -> Path:
        return self.root / CATALOGUE

    @property
    def overhead(self) -> frozenset[str]:
        """Relative paths of the files that no task owns."""
        return frozenset({self.identity_file.name, *(CATALOGUE + suffix for suffix in SQLITE_SUFFIXES)})

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / "sha256" / sha256[:2] / sha256

    @property
    def has_blobs(self) -> bool:
        return (self.root / "blobs").exists()

    @property
    def writable(self) -> bool:
        paths = (self.root, self.root / "blobs" / "sha256", self.catalogue)
        return all(_may_write(path) for path in paths if path.exists())

    def identity(self) -> str:
        """Return the store's UUID."""
        try:
            data = self.identity_file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise StoreNotFoundError(
                f"no store at {self.root}: make one with `onetrunk demo` or `onetrunk publish TASK DIR`, "
                "or name another folder with --store"
            ) from None
        return _parse_identity(data, self.identity_file)

    def create(self) -> str:
        """Make the folder a store unless it is one, and return its UUID; of two processes that race, one wins."""
        if not self.identity_file.exists():
            make_folder(self.root)
            self._refuse_foreign_files()
            identity = {"format": STORE_FORMAT, "uuid": str(uuid.uuid4())}
            create_durably(self.identity_file, json.dumps(identity).encode() + b"\n")
        return self.identity()

    def walk(self) -> Iterator[StoredFile]:
        """Yield every file, ours or not; a link counts as itself and is not followed."""
        for folder, _, names in os.walk(self.root):
            for name in sorted(names):
                path = Path(folder, name)
                try:
                    nbytes = path.lstat().st_size
                except FileNotFoundError:  # another process finished with its temporary file
                    continue
                yield StoredFile(path.relative_to(self.root).as_posix(), nbytes)

    def _refuse_foreign_files(self) -> None:
        # Everything under the root is the store's, to count and to collect, so a folder in use cannot become one.
        foreign = sorted(path.name for path in self.root.iterdir() if not path.name.endswith(".partial"))
        if foreign and not self.identity_file.exists():
            raise ConflictError(f"{self.root} holds {foreign[0]!r} and no store: choose an empty or a new folder")


def make_folder(path: Path) -> None:
    """Make a folder and its parents, each durable before the next."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with _typed(path):
        path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, data: bytes) -> None:
    """Give the path these bytes, whole or not at all, and return when they would survive a power cut."""
    with _typed(path), _synced_temporary(path, data) as temporary:
        temporary.replace(path)
    sync_folder(path.parent)


def create_durably(path: Path, data: bytes) -> bool:
    """Do the same only where the path does not exist yet; return whether it did not."""
    with _typed(path), _synced_temporary(path, data) as temporary:
        try:
            path.hardlink_to(temporary)
            created = True
        except FileExistsError:
            created = False
    sync_folder(path.parent)
    return created


@contextmanager
def _synced_temporary(path: Path, data: bytes) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        # Read-only from the start: no file of a store changes once it has its name.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _typed(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise ReadOnlyStoreError(
            f"{path} cannot be written ({error.strerror}): make the folder writable for this user, or work on a copy"
        ) from None


def _may_write(path: Path) -> bool:
    mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _parse_identity(data: bytes, path: Path) -> str:
    try:
        identity = json.loads(data)
        number, name = identity["format"], str(uuid.UUID(identity["uuid"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(f"{path} is not onetrunk's: restore it from a copy of the store") from None
    if not isinstance(number, int) or number < 1:
        raise FormatError(f"{path} has format {number!r}, expected 1 or above: restore it from a copy of the store")
    if number > STORE_FORMAT:
        raise NewerFormatError(
            f"{path} has format {number}, this onetrunk reads up to {STORE_FORMAT}: upgrade onetrunk"
        )
    return name
