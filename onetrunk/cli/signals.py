"""Wait until a signal stops the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

CHECK_S = 0.5


class StopSignal:
    """Remember that SIGINT or SIGTERM has come, from now on."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._interrupts = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self._stopped.set()
        if self._interrupts:
            self._interrupts = False  # what the first one began is not interrupted by a second
            raise Stopped

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Leave the block where a signal comes within it before `wait`, or has come before it."""
        with suppress(Stopped):
            self._interrupts = True
            if self._stopped.is_set():
                raise Stopped
            yield

    def wait(self, *, while_: Callable[[], bool]) -> None:
        """Block until the signal comes, or until the condition is false."""
        self._interrupts = False
        while while_() and not self._stopped.wait(CHECK_S):
            pass

    def wait_s(self, seconds: float) -> bool:
        """Block for so long at most; return whether the signal has come."""
        return self._stopped.wait(seconds)


class Stopped(BaseException):
    """Raised in the main thread by the signal; no error of the program, so nothing that handles those catches it."""


def wait_for_signal() -> None:
    """Block until SIGINT or SIGTERM arrives."""
    StopSignal().wait(while_=lambda: True)
