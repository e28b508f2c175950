"""Whether the store changed, asked a few times a second at most; while it does not answer, what was known holds."""

from __future__ import annotations

import logging
import threading
import time

from store.errors import OnetrunkError, StorageError
from store.registry.store import Store

VALID_S = 0.25  # how long a change may go unnoticed
WAIT_S = 0.1  # how long a request waits for the answer, before it goes on with what was known
RETRY_S = 0.25  # how soon a store that failed is asked again
STALE_S = 900.0  # how long what was known is answered from

log = logging.getLogger(__name__)


class StoreWatch:
    """Asks the catalogue for its last change, on a thread of its own, so that no request waits longer than `WAIT_S`.

    Where the store does not answer, the last known state counts for `STALE_S`, and no further request waits.
    """

    def __init__(self, store: Store, *, stale_s: float = STALE_S) -> None:
        self._store, self._stale_s = store, stale_s
        self._generation = 0
        self._ended: dict[int, float] = {}  # earlier generations -> when they were found to be over
        self._change = store.last_change()
        self._answered = time.monotonic()  # when the last question was asked that had an answer
        self._tried = -RETRY_S
        self._asking = False
        self._problem: OnetrunkError | None = None
        self._state = threading.Condition()
        self._asked = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="store watch", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> OnetrunkError | None:
        """Why the store does not answer, None while it does."""
        return self._problem

    @property
    def age_s(self) -> float:
        """How old the state is that is answered from."""
        return time.monotonic() - self._answered

    def generation(self) -> int:
        """Return a number that grows with every change; raise `StorageError` after `STALE_S` without an answer."""
        known = self.known_generation()
        if known is not None:
            return known
        with self._state:
            self._ask()
            if self._problem is None and not self._state.wait_for(lambda: not self._asking, WAIT_S):
                self._set_problem(StorageError("the catalogue does not answer: see that its disk or its server does"))
            if self._problem is not None and self.age_s > self._stale_s:
                raise self._problem
            return self._generation

    def known_generation(self) -> int | None:
        """Return what `generation` does, None where that has to wait."""
        if self._answered + VALID_S >= time.monotonic():
            return self._generation
        if self._problem is None or self.age_s > self._stale_s:
            return None
        with self._state:
            self._ask()
        return self._generation

    def is_recent(self, generation: int) -> bool:
        """Say whether this was the store's state within the last `STALE_S`."""
        return generation == self._generation or self._ended.get(generation, 0.0) >= time.monotonic() - self._stale_s

    def close(self) -> None:
        self._closing = True
        self._asked.set()

    def _ask(self) -> None:
        if not self._asking and time.monotonic() - self._tried >= RETRY_S:
            self._asking, self._tried = True, time.monotonic()
            self._asked.set()

    def _run(self) -> None:
        while self._asked.wait() and not self._closing:
            self._asked.clear()
            asked = time.monotonic()
            try:
                change, problem = self._store.last_change(), None
            except OnetrunkError as error:
                change, problem = None, error
            with self._state:
                if change is None:
                    self._set_problem(problem)
                else:
                    self._answer(change, asked)
                self._asking = False
                self._state.notify_all()
        self._store.release_connections()

    def _answer(self, change: str, asked: float) -> None:
        if self._problem is not None:
            log.warning("the store answers again after %.1f s", asked - self._answered)
        if change != self._change:
            self._ended[self._generation] = asked
            self._generation += 1
            while self._ended and not self.is_recent(next(iter(self._ended))):
                del self._ended[next(iter(self._ended))]
        self._change, self._answered, self._problem = change, asked, None

    def _set_problem(self, problem: OnetrunkError | None) -> None:
        if self._problem is None:
            log.warning("the store does not answer, what was known counts for %.0f s: %s", self._stale_s, problem)
        self._problem = problem
