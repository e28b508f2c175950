"""Where the storage page gets its figures: the report of the whole store, made at most once for each state of it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from store.accounting.facts import FactsCache
from store.accounting.pictures.drawing import Picture
from store.accounting.pictures.gallery import pictures
from store.accounting.report import Account, StorageReport, account_of
from store.registry.store import Store

FRESH_S = 60.0


@dataclass(frozen=True)
class DatedReport:
    """An account with its pictures, and when it was made, in seconds since the epoch."""

    account: Account
    pictures: tuple[Picture, ...]
    at: float

    @property
    def report(self) -> StorageReport:
        return self.account.report


class StorageSource:
    """Makes the report when somebody asks, for one at a time: it reads every manifest once and lists every file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._facts: FactsCache = {}
        self._made: tuple[str, DatedReport] | None = None

    def report(self, *, again: bool = False) -> DatedReport:
        """Return the report of the store as it is now, or of less than a minute ago if nothing was changed since."""
        with self._lock:
            change = self._store.last_change()
            if not again and self._made is not None:
                known_change, known = self._made
                if known_change == change and time.time() - known.at < FRESH_S:
                    return known
            account = account_of(self._store, known=self._facts)
            made = DatedReport(account, pictures(account.report), time.time())
            self._made = (change, made)
            return made
