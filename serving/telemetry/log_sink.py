"""Where the lines of the log go; a reader that is slow or gone never delays an answer."""

from __future__ import annotations

import asyncio
import os
from collections import deque

FLUSH_S = 0.05
MOST_LINES = 20_000  # that wait for a reader
ATOMIC_NBYTES = 4096  # PIPE_BUF: what several processes may write into one pipe without mixing their lines


STDOUT = "-"


class LogSink:
    """Lines for a file, a pipe or standard output, written by the event loop in groups.

    `dropped` are the lines that found no room because nobody read them.
    """

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        self._descriptor = 1 if path == STDOUT else os.open(path, flags, 0o600)
        self._lines: deque[bytes] = deque()
        self._rest = b""  # of a line that was written in part
        self._scheduled = False
        self.dropped = 0

    def put(self, line: str) -> None:
        """Write the line within `FLUSH_S`."""
        if len(self._lines) >= MOST_LINES:
            self.dropped += 1
            return
        self._lines.append(f"{line}\n".encode(errors="replace"))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush_later)

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

    def _flush_later(self) -> None:
        self._scheduled = False
        self.flush()
        if (self._lines or self._rest) and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush_later)
