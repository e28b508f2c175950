"""Bytes named by their digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from types import MappingProxyType

from store.backends.base import Backend
from store.backends.layout import blob_key, quarantine_key
from store.errors import IntegrityError
from store.records.blob import Blob, blake3_of

REMEDY = "restore the file from a copy of the store, or publish again what it came from"
FEW_NBYTES = 1 << 20  # they are hashed in less time than another thread takes to start, and to be waited for
NO_DIGESTS: Mapping[Blob, str] = MappingProxyType({})


class Blobs:
    """Content addressing over a backend: what comes out is what went in, or an `IntegrityError`."""

    def __init__(self, backend: Backend, *, probe_existing: bool = True) -> None:
        """Without `probe_existing`, `put` does not read existing bytes, so that its time does not reveal them."""
        self._backend = backend
        self._probe_existing = probe_existing

    def put(self, data: bytes) -> Blob:
        """Keep the bytes durably and return their name; a damaged object of that name is set aside first."""
        blob = Blob.of(data)
        key = blob_key(blob.sha256)
        existing = self._read(key) if self._probe_existing else None
        if existing == data:
            # The writer that put it may not have made it durable yet, and our caller is about to depend on it.
            self._backend.sync(key)
            return blob
        if existing is not None:
            self._set_aside(blob)
        self._backend.put(key, data)
        return blob

    def get(self, blob: Blob) -> bytes:
        """Return the bytes, or raise `IntegrityError` where they are missing or have another digest."""
        data = self._read(blob_key(blob.sha256))
        if data is None:
            raise self._damaged(blob, "is missing")
        self._check_size(blob, data)
        self._check_digest(blob, hashlib.sha256(data).hexdigest())
        return data

    @contextmanager
    def viewing(self, *blobs: Blob, blake3: Mapping[Blob, str] = NO_DIGESTS) -> Iterator[tuple[memoryview, ...]]:
        """Yield the blobs' bytes, without a copy where they are files, once they are hashed, or while a thread does so.

        The block may compute with them, but must not pass anything on: when it ends, with an error or without, this
        waits for the digests and raises `IntegrityError` unless all are right. Then the bytes are verified as `get`'s:
        those of a blob in `blake3` by that digest, which the caller must have from a verified manifest.
        """
        views = tuple(map(self._view, blobs))
        digests: dict[Blob, str] = {}  # what is not in it at the end was not verified, for whatever reason

        def digest() -> None:
            for blob, view in zip(blobs, views, strict=True):
                digests[blob] = blake3_of(view) if blob in blake3 else hashlib.sha256(view).hexdigest()

        def check() -> None:
            for blob in blobs:
                if blob in blake3:
                    self._check_blake3(blob, digests.get(blob), blake3[blob])
                else:
                    self._check_digest(blob, digests.get(blob))

        if sum(blob.nbytes for blob in blobs) < FEW_NBYTES:
            digest()
            check()
            yield views
            return
        thread = Thread(target=digest, name="digest")
        thread.start()
        try:
            yield views
        finally:
            thread.join()
            check()

    def check(self, blob: Blob, *blake3: str) -> None:
        """Raise `IntegrityError` unless the bytes are those that were published and have these BLAKE3 digests."""
        data = self.get(blob)
        found = blake3_of(data) if blake3 else None
        for expected in blake3:
            self._check_blake3(blob, found, expected)

    def prefix(self, blob: Blob, nbytes: int) -> bytes:
        """Return the first bytes, unchecked: for counting, not for computing."""
        try:
            return self._backend.read_prefix(blob_key(blob.sha256), nbytes)
        except FileNotFoundError:
            raise self._damaged(blob, "is missing") from None

    def locate(self, blob: Blob) -> str:
        """Return the blob's path or URL, whether it exists or not."""
        return self._backend.locate(blob_key(blob.sha256))

    def holds(self, blob: Blob) -> bool:
        """Say whether an object of the blob's size is there; `get` says whether it is the blob."""
        return self._backend.size(blob_key(blob.sha256)) == blob.nbytes

    def quarantine(self, blob: Blob) -> str | None:
        """Set the blob's object aside if it is damaged, and return its new key; None where it is whole or missing."""
        data = self._read(blob_key(blob.sha256))
        return None if data is None or Blob.of(data) == blob else self._set_aside(blob)

    def _view(self, blob: Blob) -> memoryview:
        try:
            view = self._backend.view(blob_key(blob.sha256))
        except FileNotFoundError:
            raise self._damaged(blob, "is missing") from None
        self._check_size(blob, view)
        return view

    def _check_size(self, blob: Blob, data: bytes | memoryview) -> None:
        if len(data) != blob.nbytes:
            raise self._damaged(blob, f"has {len(data)} bytes, expected {blob.nbytes}")

    def _check_digest(self, blob: Blob, sha256: str | None) -> None:
        if sha256 != blob.sha256:
            raise self._damaged(blob, f"has sha256 {(sha256 or 'unknown')[:16]}…, not the one that names it") from None

    def _check_blake3(self, blob: Blob, found: str | None, expected: str) -> None:
        if found != expected:
            raise self._damaged(blob, f"has blake3 {(found or 'unknown')[:16]}…, not the one of its manifest") from None

    def _damaged(self, blob: Blob, problem: str) -> IntegrityError:
        return IntegrityError(f"{self.locate(blob)} {problem}: {REMEDY}")

    def _set_aside(self, blob: Blob) -> str | None:
        key = quarantine_key(blob.sha256, os.urandom(8).hex())
        try:
            self._backend.move(blob_key(blob.sha256), key)
        except FileNotFoundError:  # another process has done so
            return None
        return key

    def _read(self, key: str) -> bytes | None:
        try:
            return self._backend.read(key)
        except FileNotFoundError:
            return None
