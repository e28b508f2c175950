"""Where a store's bytes lie: what a folder and a bucket must both be able to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from store.backends.layout import digest_of


class StoredFile(NamedTuple):
    """An object under the root: its key there, its size, and when it was written, in seconds since the epoch.

    A tuple, as a store may have a million of them.
    """

    path: str
    nbytes: int
    modified_at: float

    @property
    def sha256(self) -> str | None:
        """The digest in the path, None where the path is not a blob's."""
        return digest_of(self.path)


def no_op() -> None:
    """Do nothing."""


def ignore(_: str) -> None:
    """Do nothing."""


class Backend(Protocol):
    """Whole objects by key; what a call has written survives a power cut when it returns.

    Keys are those that `layout.check_key` accepts. Reading a missing key raises `FileNotFoundError`; every other
    failure is a `StorageError` or a `ReadOnlyStoreError`.
    """

    @property
    def url(self) -> str:
        """The root as messages show it: it holds no secret."""
        ...

    @property
    def writable(self) -> bool: ...

    @property
    def remote(self) -> bool:
        """Whether another machine answers, whose promises are to be probed first (`store.backends.probe`)."""
        ...

    def locate(self, key: str) -> str:
        """Return the full path or URL of the key, for messages."""
        ...

    def read(self, key: str) -> bytes: ...

    def view(self, key: str) -> memoryview:
        """Return what `read` does, without a copy where possible; the memory is the caller's own."""
        ...

    def read_prefix(self, key: str, nbytes: int) -> bytes:
        """Return the first bytes, fewer where the object is shorter."""
        ...

    def size(self, key: str) -> int | None:
        """Return the size in bytes, None where there is no object."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store these bytes under the key, whole or not at all, in place of what was there."""
        ...

    def create(self, key: str, data: bytes, *, before_commit: Callable[[], None] = no_op) -> bool:
        """Store these bytes where the key has no object; return whether it had none. Of writers that race, one wins.

        `before_commit` is called, perhaps more than once, before the object is visible: all else is written by then.
        """
        ...

    def sync(self, key: str) -> None:
        """Make an object durable that another writer has put and may not have synced yet."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the objects; a missing one is not an error."""
        ...

    def move(self, key: str, to: str) -> None:
        """Rename an object; where it is not one step, a crash leaves both names rather than none."""
        ...

    def list(self, prefix: str = "", *, unseen: Callable[[str], None] = ignore) -> Iterator[StoredFile]:
        """Yield every object under the prefix, a folder of keys: foreign and unfinished ones too.

        `unseen` is called with each place that this user may not list; what is in it is left out.
        """
        ...
