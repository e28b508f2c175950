"""Copies the lines that replicas write to the output of the server that they belong to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

NAME = "requests"
CHUNK_NBYTES = 1 << 16


class LogRelay:
    """A named pipe in the private folder, and the thread that empties it; a replica knows nothing but its path."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.path = folder / NAME
        os.mkfifo(self.path, 0o600)
        # Opened for both, it never ends, though at times no replica has it open.
        self._pipe = os.open(self.path, os.O_RDWR)
        self._descriptor = descriptor
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def _run(self) -> None:
        while True:
            chunk = os.read(self._pipe, CHUNK_NBYTES)
            try:
                while chunk:
                    chunk = chunk[os.write(self._descriptor, chunk) :]
            except OSError:  # nobody reads the output any more, or its disk is full: the lines after it may fare better
                continue
