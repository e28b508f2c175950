"""Wait until the process is asked to stop."""

from __future__ import annotations

import signal
import threading


def wait_for_signal() -> None:
    """Block until the process is asked to stop."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
