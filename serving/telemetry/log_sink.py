"""Where the lines of the log go; a reader that is slow or gone never delays an answer."""

from __future__ import annotations

import os
from collections import deque
from datetime import UTC, datetime

MOST_PATH = 200  # letters of a request's path
MOST_LINES = 20_000  # that wait for a reader
ATOMIC_NBYTES = 4096  # PIPE_BUF: what several processes may write into one pipe without mixing their lines


STDOUT = "-"


def iso(seconds: float) -> str:
    """Return a time since the epoch as every line and answer has it."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class LogSink:
    """Lines for a file, a pipe or standard output, written in groups.

    `dropped` are the lines that found no room because nobody read them.
    """

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        self._descriptor = 1 if path == STDOUT else os.open(path, flags, 0o600)
        self._lines: deque[bytes] = deque()
        self._rest = b""  # of a line that was written in part
        self.dropped = 0

    @property
    def waiting(self) -> bool:
        return bool(self._lines or self._rest)

    def put(self, line: str) -> None:
        """Take a line, which the next `flush` writes."""
        if len(self._lines) >= MOST_LINES:
            self.dropped += 1
            return
        self._lines.append(f"{line}\n".encode(errors="replace"))

    def flush(self) -> None:
        """Write what the reader takes now."""
        try:
            while self._rest or self._lines:
                group = self._rest or self._group()
                self._rest = group
                self._rest = group[os.write(self._descriptor, group) :]
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            self.dropped += len(self._lines) + bool(self._rest)
            self._lines.clear()
            self._rest = b""

    def _group(self) -> bytes:
        """Take as many lines as may be written together, at least one."""
        group = self._lines.popleft()
        while self._lines and len(group) + len(self._lines[0]) <= ATOMIC_NBYTES:
            group += self._lines.popleft()
        return group
