"""The versions that refs name, looked up a few times a second at most."""

from __future__ import annotations

import threading
import time

from store.registry.store import Store, Version

VALID_S = 0.25  # how long a moved alias may go unnoticed


class RefCache:
    """Resolve refs in a store, and remember the versions for a moment."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._versions: dict[str, Version] = {}
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def resolve(self, ref: str) -> Version:
        with self._lock:
            if time.monotonic() - self._since > VALID_S:
                self._versions, self._since = {}, time.monotonic()
            versions = self._versions
        version = versions.get(ref) or self._store.resolve(ref)
        versions[ref] = version
        return version

    def cached(self, ref: str) -> Version | None:
        """Return the version where `resolve` would not ask the store, else None."""
        return None if time.monotonic() - self._since > VALID_S else self._versions.get(ref)
