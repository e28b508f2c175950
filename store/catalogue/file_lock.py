"""The lock that SQLite's writers queue for, with a time limit: a writer that stands still stops nobody for ever."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from store.backends.atomic_write import writing
from store.errors import StorageError, StoreBusyError

LOCK_S = 30.0  # how long a writer waits for those before it
LOCKS = Path("/proc/locks")


@dataclass(eq=False)
class _Waiter:
    """A thread that waits for the lock through an open file of its own, and whether it has it."""

    descriptor: int
    taken: threading.Event = field(default_factory=threading.Event)


class FileLock:
    """The kernel's lock of a file, which wakes the next in the queue at once.

    The kernel's call has no time limit, so where the lock is taken a thread waits in it. Where its writer gives up, it
    stays in the queue for the next writer: there are never more of them than writers at a time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._left: list[_Waiter] = []  # those whose writers gave up; one that gets the lock gives it back
        self._pid = os.getpid()

    @contextmanager
    def held(self, *, limit_s: float) -> Iterator[None]:
        """Hold the lock during the block; raise `StoreBusyError` where others hold it for all of the time."""
        descriptor, process = self._acquire(limit_s), os.getpid()
        try:
            yield
        finally:
            if os.getpid() == process:
                _give_back(descriptor)
            else:  # a fork in the block: the lock is its parent's
                os.close(descriptor)

    def _acquire(self, limit_s: float) -> int:
        waiter = self._left_waiter()
        if waiter is None:
            descriptor = self._open()
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            waiter = _Waiter(descriptor)
            threading.Thread(target=self._wait, args=(waiter,), name="catalogue lock", daemon=True).start()
        if not waiter.taken.wait(limit_s):
            with self._mutex:
                if not waiter.taken.is_set():
                    self._left.append(waiter)
                    raise self._busy(limit_s)
        return waiter.descriptor

    def _wait(self, waiter: _Waiter) -> None:
        fcntl.flock(waiter.descriptor, fcntl.LOCK_EX)
        with self._mutex:
            if waiter not in self._left:
                waiter.taken.set()
                return
            self._left.remove(waiter)
        _give_back(waiter.descriptor)

    def _left_waiter(self) -> _Waiter | None:
        """Return a waiter for this file whose writer gave up: it is the first of ours in the queue."""
        if self._pid != os.getpid():  # a fork has none of its parent's threads, one of which may have held the mutex
            for waiter in self._left:
                os.close(waiter.descriptor)
            self._mutex, self._left, self._pid = threading.Lock(), [], os.getpid()
        with self._mutex:
            for waiter in self._left:
                if _same_file(waiter.descriptor, self._path):
                    self._left.remove(waiter)
                    return waiter
        return None

    def _open(self) -> int:
        try:
            with writing(self._path):
                return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise StorageError(f"{self._path.parent} is missing: bring the store's folder back") from None

    def _busy(self, limit_s: float) -> StoreBusyError:
        holder = lock_holder(self._path)
        remedy = "wait until it ends" if holder is None else f"let it go on (`kill -CONT {holder}`), or end it"
        by = "another writer" if holder is None else f"process {holder}"
        return StoreBusyError(f"the catalogue's lock {self._path} is held by {by} for over {limit_s:g} s: {remedy}")


def _give_back(descriptor: int) -> None:
    """Unlock, then close: a process forked meanwhile has the open file too, and closing alone would leave it locked."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def lock_holder(path: Path) -> int | None:
    """Return the process that holds the lock, None where the system does not say."""
    try:
        status, lines = path.stat(), LOCKS.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for fields in map(str.split, lines):  # 1: FLOCK ADVISORY WRITE 4711 fd:01:131 0 EOF, with -> before one that waits
        if len(fields) > 5 and (fields[1], fields[5]) == ("FLOCK", name) and fields[4].isdigit():
            return int(fields[4]) or None  # 0: a process of another container
    return None


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
