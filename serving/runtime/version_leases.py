"""Leases on the versions that a replica serves, so that nobody removes them."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future

from store.errors import OnetrunkError, VersionNotFoundError
from store.registry.store import Store

LEASE_S = 60.0  # how long the leases of a killed replica last
KEEP_S = 300.0  # how long a version is held after the last request for it
WAIT_S = 1.0  # how long the load of a version waits for its lease
LOOK_S = 1.0  # how soon a lease that failed is tried again, and a step of the clock is noticed
CLOSE_S = 2.0  # how long a server that stops waits for its leases to be released
STEP_S = 5.0  # what the clock may differ from the monotonic one before it counts as a step

log = logging.getLogger(__name__)


class VersionLeases:
    """Leases on every version that was requested lately; none where the store is read-only.

    A thread of its own writes them. No request waits for it: `use` only says that a version is used, and `hold`, on
    the thread that loads a version, waits for the lease for `WAIT_S` at most. A removal is a write too, so while the
    catalogue takes no lease it takes no removal either; a version in memory stays right whatever is removed.

    One lease is on all versions, and is written again at every renewal. Versions that are first requested between two
    renewals are in a second lease, which is small, so that nobody waits until thousands of versions are written.
    """

    def __init__(self, store: Store, *, lease_s: float = LEASE_S, keep_s: float = KEEP_S) -> None:
        self._store = store
        self._lease_s, self._keep_s = lease_s, keep_s
        self._holder = f"server {platform.node()}:{os.getpid()}"
        self._all: str | None = None
        self._new: str | None = None
        self._held: set[str] = set()  # the digests in both leases
        self._since: set[str] = set()  # those in the second
        self._used: dict[str, float] = {}  # digest -> last request
        self._waiting: dict[str, Future[None]] = {}
        self._failing = False
        self._renewed = time.monotonic()
        self._lock = threading.Lock()  # for what requests change too; never held while the catalogue is written
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        if not store.read_only:
            self._thread.start()

    @property
    def missing(self) -> int:
        """How many versions are served without a lease."""
        lapsed = time.monotonic() - self._renewed > self._lease_s
        with self._lock:
            return len(self._used) if lapsed else len(self._used.keys() - self._held)

    def use(self, digest: str) -> None:
        """Say that the version is used: where there is no lease on it, one is taken soon."""
        if self._store.read_only:
            return
        with self._lock:
            self._used[digest] = time.monotonic()
        if digest not in self._held:
            self._wake.set()

    def hold(self, digest: str) -> None:
        """Take a lease on the version; raise `VersionNotFoundError` where it was removed meanwhile.

        Where the lease cannot be written in time, the version is used without one, and the lease is tried again.
        """
        self.use(digest)
        if self._store.read_only:
            return
        with self._lock:
            if digest in self._held:
                return
            future = self._waiting.setdefault(digest, Future())
            wait_s = 0 if self._failing else WAIT_S
        self._wake.set()
        try:
            future.result(wait_s)
        except TimeoutError:
            if wait_s:
                log.warning("version %s… is served without a lease for now: the catalogue takes none", digest[:16])
            with self._lock:
                self._failing |= not future.done()

    def close(self) -> None:
        """Release both leases, unless the catalogue takes too long: then they expire."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        began, offset, tried = time.monotonic(), _clock_offset(), 0.0
        while not self._closing.is_set():
            self._wake.wait(min(LOOK_S, self._lease_s / 3))
            self._wake.clear()
            now = time.monotonic()
            if now - began >= self._lease_s / 3 or abs(_clock_offset() - offset) > STEP_S:
                self._renew()
                began, offset = now, _clock_offset()
            if not self._failing or now - tried >= LOOK_S:
                tried = now
                self._take_new()
        self._release_all()

    def _take_new(self) -> None:
        with self._lock:
            new = self._used.keys() - self._held
        if not new:
            return
        try:
            self._take_second({*self._since, *new})
        except VersionNotFoundError:
            for digest in sorted(new):
                self._take_one(digest)
        except OnetrunkError as error:
            self._fail(len(new), error)
        else:
            self._settle(new)

    def _take_one(self, digest: str) -> None:
        try:
            try:
                self._take_second({*self._since, digest})
            except VersionNotFoundError:
                self._take_second({digest})  # raises if this version is gone; else another one is
        except VersionNotFoundError as error:
            with self._lock:
                self._used.pop(digest, None)
            self._settle({digest}, error)
        except OnetrunkError as error:
            self._fail(1, error)
        else:
            self._settle({digest})

    def _take_second(self, digests: set[str]) -> None:
        self._new = self._take(digests, self._new)
        self._held = (self._held - self._since) | digests
        self._since = digests

    def _settle(self, digests: Iterable[str], error: VersionNotFoundError | None = None) -> None:
        with self._lock:
            self._failing = False
            for future in filter(None, [self._waiting.pop(digest, None) for digest in digests]):
                future.set_result(None) if error is None else future.set_exception(error)

    def _fail(self, count: int, error: OnetrunkError) -> None:
        """Let all who wait go on without a lease: a full disk must not end what can still be read."""
        log.warning("no lease on %d version%s: %s", count, "s" * (count > 1), error)
        with self._lock:
            self._failing = True
            for future in self._waiting.values():
                future.set_result(None)
            self._waiting.clear()

    def _renew(self) -> None:
        oldest = time.monotonic() - self._keep_s
        with self._lock:
            self._used = {digest: at for digest, at in self._used.items() if at >= oldest}
            used = set(self._used)
        try:
            if used:
                self._all = self._take(used, self._all)
            elif self._all is not None:
                self._store.release(self._all)
                self._all = None
            if self._new is not None:
                self._store.release(self._new)
                self._new = None
            self._held, self._since, self._renewed = used, set(), time.monotonic()
        except VersionNotFoundError:  # the lease expired while this machine slept: each is asked for again
            self._held, self._since = set(), set()
        except OnetrunkError as error:
            log.warning("the lease on %d versions was not renewed: %s", len(used), error)

    def _release_all(self) -> None:
        for lease in filter(None, (self._all, self._new)):
            try:
                self._store.release(lease)
            except OnetrunkError as error:
                log.warning("a lease was not released, it expires in %.0f s: %s", self._lease_s, error)

    def _take(self, digests: Iterable[str], lease: str | None) -> str:
        return self._store.lease(sorted(digests), holder=self._holder, ttl_s=self._lease_s, lease_id=lease)


def _clock_offset() -> float:
    return time.time() - time.monotonic()
