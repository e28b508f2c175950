"""Leases on the versions that a replica serves, so that nobody removes them."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Iterable

from store.errors import OnetrunkError, VersionNotFoundError
from store.registry.store import Store

LEASE_S = 60.0  # how long the leases of a killed replica last
KEEP_S = 300.0  # how long a version is held after the last request for it

log = logging.getLogger(__name__)


class VersionLeases:
    """Leases on every version that was requested lately; none where the store is read-only.

    One lease is on all of them, and is written again at every renewal. Versions that are first requested between two
    renewals are in a second lease, which is small, so that a request never waits until thousands of versions are
    written.
    """

    def __init__(self, store: Store, *, lease_s: float = LEASE_S, keep_s: float = KEEP_S) -> None:
        self._store = store
        self._lease_s, self._keep_s = lease_s, keep_s
        self._holder = f"server {platform.node()}:{os.getpid()}"
        self._all: str | None = None
        self._new: str | None = None
        self._used: dict[str, float] = {}  # digest -> last request; grows and is replaced under the lock alone
        self._since: set[str] = set()  # the digests in the second lease
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        if not store.read_only:
            self._thread.start()

    def hold(self, digest: str) -> None:
        """Take a lease on the version; raise `VersionNotFoundError` where it was removed meanwhile."""
        if self._store.read_only:
            return
        used = self._used  # if it is replaced meanwhile, the time goes to the old one and the next call takes a lease
        if digest in used:
            used[digest] = time.monotonic()
            return
        with self._lock:
            try:
                self._new = self._take({*self._since, digest}, self._new)
            except VersionNotFoundError:
                self._new = self._take({digest}, self._new)  # raises if this version is gone
                # Another one is: the lease expired while this machine slept. The next request for each takes a new one.
                self._used, self._since = {d: at for d, at in self._used.items() if d not in self._since}, set()
            except OnetrunkError as error:  # a full disk must not end what can still be read
                log.warning("version %s… is served without a lease: %s", digest[:16], error)
            self._since.add(digest)
            self._used[digest] = time.monotonic()

    def close(self) -> None:
        """Release both leases."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._used = {}
        self._renew()

    def _run(self) -> None:
        while not self._closing.wait(self._lease_s / 3):
            self._renew()

    def _renew(self) -> None:
        with self._lock:
            oldest = time.monotonic() - self._keep_s
            used = {digest: at for digest, at in self._used.items() if at >= oldest}
            try:
                if used:
                    self._all = self._take(used, self._all)
                elif self._all is not None:
                    self._store.release(self._all)
                    self._all = None
                if self._new is not None:
                    self._store.release(self._new)
                    self._new = None
                self._used, self._since = used, set()
            except OnetrunkError as error:
                log.warning("the lease on %d versions was not renewed: %s", len(used), error)
                if isinstance(error, VersionNotFoundError):
                    self._used, self._since = {}, set()  # the next request for each takes a lease, or fails

    def _take(self, digests: Iterable[str], lease: str | None) -> str:
        return self._store.lease(sorted(digests), holder=self._holder, ttl_s=self._lease_s, lease_id=lease)
