"""A store in a bucket of S3, Google Cloud Storage or Azure, through obstore."""

from __future__ import annotations

import functools
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError
from obstore.store import from_url

from store.backends.base import Backend, StoredFile, ignore, no_op
from store.backends.layout import check_key
from store.errors import InvalidSettingError, ReadOnlyStoreError, StorageError

URL = re.compile(r"((?:s3|gs|az)://[a-z0-9][a-z0-9._-]{1,221})((?:/[A-Za-z0-9._-]+)*)/?")
PART_NBYTES = 16 * 2**20
"""No request moves more, so that obstore's limit of 30 s for each holds on a slow line too."""

CREATE_TRIES = 6
MARK = "writeid"  # letters alone: Azure takes no hyphen in a name, and some proxies drop underscores
READ, CHECKED, WRITTEN, DELETED, LISTED = "read", "checked", "written", "deleted", "listed"
CODE = re.compile(r"<Code>(\w+)</Code>")
STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")


class ObjectStoreBackend:
    """Objects under the URL's prefix; the credentials come from the environment, as obstore reads them.

    Threads may share it; a forked child may not, since obstore's own threads stay behind.
    """

    def __init__(self, url: str) -> None:
        self._url = _check_url(url)
        try:
            self._store = from_url(self._url, retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=30)})
        except BaseError as error:
            raise InvalidSettingError(
                f"{self._url} cannot be opened ({str(error).splitlines()[0][:200]}): set the cloud's credentials "
                "in the environment"
            ) from None

    @property
    def url(self) -> str:
        return self._url

    @property
    def writable(self) -> bool:
        return True  # what the credentials allow is known when they are used

    @property
    def remote(self) -> bool:
        return True

    def locate(self, key: str) -> str:
        return f"{self._url}/{key}"

    def read(self, key: str) -> bytes:
        with self._typed(key, READ):
            whole = obstore.get(self._store, key)
            nbytes = whole.meta["size"]
            if nbytes <= PART_NBYTES:
                return whole.bytes().to_bytes()
            starts = range(0, nbytes, PART_NBYTES)
            return b"".join(self._part(key, start, min(start + PART_NBYTES, nbytes)) for start in starts)

    def view(self, key: str) -> memoryview:
        return memoryview(bytearray(self.read(key)))

    def read_prefix(self, key: str, nbytes: int) -> bytes:
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(f"{self.locate(key)} is missing")
        end = min(size, nbytes)
        with self._typed(key, READ):
            return self._part(key, 0, end) if end else b""  # to ask for a range of nothing is an error

    def size(self, key: str) -> int | None:
        try:
            with self._typed(key, READ):
                return obstore.head(self._store, key)["size"]
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        in_parts = len(data) > PART_NBYTES
        with self._typed(key, WRITTEN):
            obstore.put(self._store, key, data, use_multipart=in_parts, chunk_size=PART_NBYTES, max_concurrency=4)

    def create(self, key: str, data: bytes, *, before_commit: Callable[[], None] = no_op) -> bool:
        before_commit()
        # An answer may be lost when the object is there already, and the request that is then sent again meets our
        # own object. So the object carries a mark of this call, and a call that finds the key taken looks whose it is.
        mark = uuid.uuid4().hex
        problem = StorageError(f"{self.locate(key)} was neither created nor taken in {CREATE_TRIES} tries: try again")
        for attempt in range(CREATE_TRIES):
            try:
                with self._typed(key, WRITTEN):
                    obstore.put(self._store, key, data, mode="create", attributes={MARK: mark}, use_multipart=False)
                return True
            except AlreadyExistsError:
                pass
            except StorageError as error:
                problem = error
            existing = self._mark_of(key)
            if existing is not None:
                return existing == mark
            # S3 may refuse both of two requests that meet (409), and the one that we met may have been lost too.
            time.sleep(random.uniform(0, 0.05 * 2**attempt))
        raise problem

    def sync(self, key: str) -> None:
        check_key(key)  # and no more: what a bucket shows is durable

    def delete(self, keys: Sequence[str]) -> None:
        paths = [check_key(key) for key in keys]
        if not paths:
            return
        with self._typed(paths[0], DELETED):
            try:
                obstore.delete(self._store, paths)
                return
            except FileNotFoundError:  # Azure and Google give up at the first that is not there
                pass
            for path in paths:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, path)

    def move(self, key: str, to: str) -> None:
        if self.size(key) is None:
            raise FileNotFoundError(f"{self.locate(key)} is missing")
        with self._typed(to, WRITTEN):
            obstore.copy(self._store, key, to)
        self.delete([key])

    def list(self, prefix: str = "", *, unseen: Callable[[str], None] = ignore) -> Iterator[StoredFile]:  # noqa: ARG002
        with self._typed(prefix or None, LISTED):
            for page in obstore.list(self._store, prefix=prefix or None, chunk_size=1000):
                for entry in page:
                    yield StoredFile(entry["path"], entry["size"], entry["last_modified"].timestamp())

    def _part(self, key: str, start: int, end: int) -> bytes:
        return obstore.get_range(self._store, key, start=start, end=end).to_bytes()

    def _mark_of(self, key: str) -> str | None:
        """Return the mark of the call that created the object, "" where it has none, None where there is no object."""
        try:
            with self._typed(key, CHECKED):
                return obstore.get(self._store, key, options={"head": True}).attributes.get(MARK, "")
        except FileNotFoundError:
            return None

    @contextmanager
    def _typed(self, key: str | None, done: str) -> Iterator[None]:
        """Check the key, and turn obstore's errors into ours; `done` says in messages what could not be done."""
        location = self._url if key is None else self.locate(check_key(key))
        if os.getpid() != first_process():
            raise StorageError(f"{location} cannot be {done} by a forked process: start a new one (spawn)")
        try:
            yield
        except AlreadyExistsError:
            raise
        except FileNotFoundError:
            if done in (WRITTEN, LISTED):
                raise StorageError(f"{location} cannot be {done}: there is no such bucket; create it first") from None
            raise FileNotFoundError(f"{location} is missing") from None
        except BaseError as error:
            denied = isinstance(error, PermissionDeniedError) and done in (WRITTEN, DELETED)
            raise (ReadOnlyStoreError if denied else StorageError)(
                f"{location} cannot be {done} ({_reason(error)}): check the bucket's address, the credentials "
                "in the environment and what they allow"
            ) from None


@functools.cache
def first_process() -> int:
    """Return the process that used a bucket first: the threads that it started are in no fork of it."""
    return os.getpid()


def open_object_store(url: str) -> Backend:
    return ObjectStoreBackend(url)


def _check_url(url: str) -> str:
    match = URL.fullmatch(url)
    if match is None:
        raise InvalidSettingError(
            f"store {url.partition(':')[0]}:… is not a valid bucket address: write s3://BUCKET or s3://BUCKET/PREFIX, "
            "with no password, port or query in it"
        )
    if match[2]:
        check_key(match[2][1:])
    return f"{match[1]}{match[2]}"


def _reason(error: Exception) -> str:
    """Say what the service answered, and no more: its full answer may quote the request with its signature."""
    text = str(error)
    match = CODE.search(text) or STATUS.search(text)
    if match:
        return match.group(1).strip()
    return "no answer" if "HTTP error" in text else type(error).__name__
