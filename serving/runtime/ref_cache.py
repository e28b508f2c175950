"""The versions that refs name, looked up again where the store has changed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import NamedTuple

from serving.runtime.choices import Named, look_up
from serving.runtime.store_watch import VALID_S, StoreWatch
from store.errors import StorageError
from store.registry.store import Store, Version

MOST_REFS = 10_000  # refs that are remembered; one that was forgotten is looked up again
LOOK_UPS = 4  # threads that look up
LOOK_UP_S = 10.0  # how long a look-up may take while the catalogue answers: a bucket may be slow
SILENT_S = 1.0  # how long a catalogue that does not answer may be a busy machine's, for a ref that is not known


class _Known(NamedTuple):
    generation: int
    named: Named


class RefCache:
    """Resolve refs in a store, and remember the versions while it does not change.

    A store that does not answer is noticed in `WAIT_S`; then a known ref names the version that it named last. An
    unknown one raises the store's error once the store was silent for `SILENT_S`, and at once after that. Look-ups are
    on threads of their own, so a request can leave one that stands still.
    """

    def __init__(self, store: Store, watch: StoreWatch) -> None:
        self._store, self._watch = store, watch
        self._known: dict[str, _Known] = {}
        self._wanted: SimpleQueue[tuple[str, Future[Named]] | None] = SimpleQueue()
        for _ in range(LOOK_UPS):
            threading.Thread(target=self._run, name="refs", daemon=True).start()

    def resolve(self, ref: str) -> Version:
        """Return the version that the ref names, of a split alias the stable one."""
        return self.find(ref).version

    def find(self, ref: str) -> Named:
        """Return what the ref names."""
        generation = self._watch.generation()
        known = self._known.get(ref) if isinstance(ref, str) else None
        if known is not None and self._holds(known, generation):
            return known.named
        try:
            named = self._look_up(ref)
        except StorageError:
            if known is None or not self._watch.is_recent(known.generation):
                raise
            return known.named
        self._remember(ref, _Known(generation, named))
        return named

    def cached(self, ref: str) -> Named | None:
        """Return what `find` does where that would not wait, else None."""
        generation, known = self._watch.known_generation(), self._known.get(ref)
        return known.named if known and generation is not None and self._holds(known, generation) else None

    def close(self) -> None:
        for _ in range(LOOK_UPS):
            self._wanted.put(None)

    def _holds(self, known: _Known, generation: int) -> bool:
        if known.generation == generation:
            return True
        return self._watch.problem is not None and self._watch.is_recent(known.generation)

    def _look_up(self, ref: str) -> Named:
        future: Future[Named] = Future()
        self._wanted.put((ref, future))
        end = time.monotonic() + LOOK_UP_S
        while time.monotonic() < end and (self._watch.problem is None or self._watch.age_s < SILENT_S):
            if wait([future], VALID_S).done:
                return future.result()
            self._watch.generation()  # asks again whether the store answers
        future.cancel()
        late = StorageError(
            f"{ref!r:.200} was not found within {LOOK_UP_S:g} s: see that the store's bucket or disk answers"
        )
        raise self._watch.problem or late

    def _remember(self, ref: str, known: _Known) -> None:
        self._known[ref] = known
        while len(self._known) > MOST_REFS:
            self._known.pop(next(iter(self._known)), None)

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            ref, future = wanted
            if not future.set_running_or_notify_cancel():
                continue
            known = self._known.get(ref) if isinstance(ref, str) else None
            try:
                future.set_result(look_up(self._store, ref, known and known.named))
            except BaseException as error:  # the one who waits must get it
                future.set_exception(error)
        self._store.release_connections()
