"""Where the storage page gets its figures: the report of the whole store, made at most once for each state of it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from store.accounting.facts import FactsCache
from store.accounting.pictures.drawing import Picture
from store.accounting.pictures.gallery import pictures
from store.accounting.report import StorageReport, storage_report
from store.registry.store import Store

FRESH_S = 60.0


@dataclass(frozen=True)
class DatedReport:
    """A report with its pictures, and when it was made, in seconds since the epoch."""

    report: StorageReport
    pictures: tuple[Picture, ...]
    at: float


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
            report = storage_report(self._store, known=self._facts)
            made = DatedReport(report, pictures(report), time.time())
            self._made = (change, made)
            return made
