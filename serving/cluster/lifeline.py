"""Notice, at any moment, that this process is to end: its standard input has ended, or a signal has come."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable


class Lifeline:
    """Watch on a thread of its own, as the main one may be deep within Ray.

    Until `hold`, the end is `leave`, called on that thread at once. From then on, `wait` returns, and `leave` is called
    only where the main thread has not ended within `grace_s`.
    """

    def __init__(self, leave: Callable[[], None], *, grace_s: float) -> None:
        self._leave = leave
        self._grace_s = grace_s
        self._held = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._signals, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)  # the byte that it writes is what counts
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def hold(self) -> None:
        """Let the main thread end in order from now on."""
        with self._lock:
            self._held = True

    def wait(self) -> None:
        self._over.wait()

    def _watch(self) -> None:
        while True:
            readable, _, _ = select.select([0, self._signals], [], [])
            if self._signals in readable and signal.SIGTERM in os.read(self._signals, 64):
                break
            if 0 in readable and not os.read(0, 64):
                break
        with self._lock:
            self._over.set()
            held = self._held
        if held:
            threading.Event().wait(self._grace_s)
        self._leave()
