"""The versions that a replica serves: which one a ref names, and the leases on those that are used."""

from __future__ import annotations

from dataclasses import dataclass

from serving.runtime.choices import Named
from serving.runtime.ref_cache import RefCache
from serving.runtime.store_watch import StoreWatch
from serving.runtime.version_leases import VersionLeases
from store.registry.store import Store, Version


@dataclass(frozen=True)
class StoreStatus:
    """Whether the store answers, how old the state is that is answered from, and how many versions lack a lease."""

    answers: bool
    age_s: float
    without_lease: int


class ServedVersions:
    """Resolves refs and holds versions; while the store is away, both go on with what was known."""

    def __init__(self, store: Store) -> None:
        self._watch = StoreWatch(store)
        self._refs = RefCache(store, self._watch)
        self._leases = VersionLeases(store)

    def find(self, ref: str) -> Named:
        """Return what the ref names, which may ask the store."""
        return self._refs.find(ref)

    def cached(self, ref: str) -> Named | None:
        """Return what `find` does where that would not wait, else None."""
        return self._refs.cached(ref)

    def generation(self) -> int:
        """Return a number that grows with every change of the store; see `StoreWatch`."""
        return self._watch.generation()

    def known_generation(self) -> int | None:
        """Return what `generation` does, None where that has to wait."""
        return self._watch.known_generation()

    def check(self) -> None:
        """Raise the error of a store that does not answer."""
        if self._watch.problem is not None:
            raise self._watch.problem

    def use(self, version: Version) -> None:
        """Say that the version is used; never waits."""
        self._leases.use(version.digest)

    def hold(self, version: Version) -> None:
        """Wait a moment for a lease on the version; raise `VersionNotFoundError` where it was removed meanwhile."""
        self._leases.hold(version.digest)

    def status(self) -> StoreStatus:
        return StoreStatus(self._watch.problem is None, self._watch.age_s, self._leases.missing)

    def close(self) -> None:
        """Release the leases, and end the threads that ask the store."""
        self._leases.close()
        self._refs.close()
        self._watch.close()
