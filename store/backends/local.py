"""A store in a folder: nothing has a name before all of it is on disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

from store.backends.atomic_write import sync_folder, synced_beside, writing
from store.backends.base import StoredFile, ignore, no_op
from store.backends.layout import BLOBS, CATALOGUE, IDENTITY, JOURNAL, check_key
from store.backends.mapped_file import map_file
from store.errors import StorageError

T = TypeVar("T")

TRIES = 10
NAME = attrgetter("name")


class LocalBackend:
    """Objects as read-only files, each written beside its place and then renamed or linked to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[Path] = set()
        self._is_store = False  # once its identity was read: where that is gone then, the whole store is

    @property
    def url(self) -> str:
        return str(self.root)

    @property
    def writable(self) -> bool:
        paths = (self.root, self.root / BLOBS, self.root / JOURNAL, self.root / CATALOGUE)
        return all(_is_writable(path) for path in paths if path.exists())

    @property
    def remote(self) -> bool:
        return False

    def locate(self, key: str) -> str:
        return str(self.root / key)

    def read(self, key: str) -> bytes:
        return self._read(key, None)

    def view(self, key: str) -> memoryview:
        with self._reading(key) as path:
            return map_file(path)

    def read_prefix(self, key: str, nbytes: int) -> bytes:
        return self._read(key, nbytes)

    def size(self, key: str) -> int | None:
        try:
            with self._reading(key) as path:
                status = Path(path).stat()
        except FileNotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def put(self, key: str, data: bytes) -> None:
        _retry(lambda: self._put(key, data))

    def create(self, key: str, data: bytes, *, before_commit: Callable[[], None] = no_op) -> bool:
        return _retry(lambda: self._create(key, data, before_commit))

    def _put(self, key: str, data: bytes) -> None:
        with self._temporary(key, data) as (path, temporary):
            temporary.replace(path)

    def _create(self, key: str, data: bytes, before_commit: Callable[[], None]) -> bool:
        with self._temporary(key, data) as (path, temporary):
            before_commit()
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return False  # and the folder is synced all the same: the other writer may not have come to it
        return True

    def sync(self, key: str) -> None:
        folder = self._path(key).parent
        with writing(folder):
            sync_folder(folder)

    def delete(self, keys: Sequence[str]) -> None:
        folders = set()
        for path in [self._path(key) for key in keys]:  # all of them checked before the first goes
            with writing(path), suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            if path.parent.is_dir():  # also where it was gone: the one who removed it may have died before the sync
                folders.add(path.parent)
        for folder in sorted(folders):
            with writing(folder):
                sync_folder(folder)

    def move(self, key: str, to: str) -> None:
        source, target = self._path(key), self._path(to)
        with writing(target):
            self._make_folder(target.parent)
            source.rename(target)
            sync_folder(target.parent)
            sync_folder(source.parent)

    def list(self, prefix: str = "", *, unseen: Callable[[str], None] = ignore) -> Iterator[StoredFile]:
        """Yield the files; paths are joined as text, for `Path` takes longer than the file system."""
        begun = [(f"{prefix}/" if prefix else "", _entries(str(self._path(prefix) if prefix else self.root), unseen))]
        while begun:  # no recursion, in which each file would pass through a generator for each folder above it
            prefix, entries = begun[-1]
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    begun.append((f"{prefix}{entry.name}/", _entries(entry.path, unseen)))
                    break
                try:
                    status = entry.stat(follow_symlinks=False)  # a link counts as itself
                except FileNotFoundError:  # another process finished with its temporary file
                    continue
                yield StoredFile(prefix + entry.name, status.st_size, status.st_mtime)
            else:
                begun.pop()

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _reading(self, key: str) -> Iterator[str]:
        path = self._file(key)
        try:
            yield path
            self._is_store |= key == IDENTITY
        except OSError as error:
            raise self._unread(path, error) from None

    def _read(self, key: str, nbytes: int | None) -> bytes:
        """Read so many bytes, or all: with few calls, as a report reads many small files."""
        path = self._file(key)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = _read(file, os.fstat(file).st_size if nbytes is None else nbytes)
            finally:
                os.close(file)
        except OSError as error:
            raise self._unread(path, error) from None
        self._is_store |= key == IDENTITY
        return data

    def _file(self, key: str) -> str:
        return f"{self.root}/{check_key(key)}"  # no `Path`, which takes longer to make than a small file to read

    def _unread(self, path: str, error: OSError) -> Exception:
        """Return what to raise for a file that could not be read."""
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            self._check_there()
            return FileNotFoundError(f"{path} is missing")
        return StorageError(f"{path} cannot be read ({error.strerror}): check the disk and the file's permissions")

    @contextmanager
    def _temporary(self, key: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """Yield the path and a synced temporary file of these bytes; the folder is synced after that."""
        path = self._path(key)
        self._check_there()
        with writing(path):
            self._make_folder(path.parent)
        with synced_beside(path, data) as temporary:
            yield path, temporary

    def _check_there(self) -> None:
        """Raise `StorageError` where a store was and its identity is gone: nothing must be written to a mount point."""
        if self._is_store and not (self.root / IDENTITY).exists():
            raise StorageError(f"the store {self.root} is away: bring its folder back, or mount it again")

    def _make_folder(self, path: Path) -> None:
        """Make the folder and its parents, each durable before the next."""
        exists = path.is_dir()
        if exists and (path in self._durable or not path.is_relative_to(self.root)):
            return
        if path != path.parent:
            self._make_folder(path.parent)
        if not exists:
            path.mkdir(exist_ok=True)
        # Also where it was there: its maker may not have synced it yet, and what we put in it would go with it.
        try:
            sync_folder(path.parent)
        except PermissionError:  # the root may lie in a folder that its user may not list
            if path != self.root and path.is_relative_to(self.root):
                raise
        self._durable.add(path)


def _entries(folder: str, unseen: Callable[[str], None]) -> Iterator[os.DirEntry[str]]:
    """Return what is in the folder, by name; one that cannot be listed has nothing."""
    try:
        return iter(sorted(os.scandir(folder), key=NAME))
    except PermissionError:  # a volume's lost+found is root's alone
        unseen(folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return iter(())


def _read(file: int, nbytes: int) -> bytes:
    """Read so many bytes, or those that there are."""
    data = os.read(file, nbytes)
    while 0 < len(data) < nbytes and (more := os.read(file, nbytes - len(data))):
        data += more
    return data


def _retry(write: Callable[[], T]) -> T:
    """Write again where a collection without a grace time has deleted the temporary file."""
    for _ in range(TRIES):
        with suppress(FileNotFoundError):
            return write()
    return write()


def _is_writable(path: Path) -> bool:
    mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
