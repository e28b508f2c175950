"""One helper process that decodes what cannot be bounded in a thread; it is killed when it takes too long."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading

from store.errors import ImageError
from store.images.helper import ANSWER, JOB
from store.records.backbone import Preprocessing


class DecodeHelper:
    """A process that is started with the first image, and again after it had to be killed; for one thread at a time."""

    def __init__(self, preprocessing: Preprocessing, *, seconds: float) -> None:
        self._settings = json.dumps({**dataclasses.asdict(preprocessing), "seconds": seconds})
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def decode(self, data: bytes) -> bytes:
        """Return the pixels as the backbone takes them, RGB; raise `ImageError` also where it takes too long."""
        process = self._process or self._start()
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._seconds, end)
        timer.daemon = True
        timer.start()
        try:
            return self._ask(process, data)
        except (OSError, EOFError):
            self.close()
            if late.is_set():
                raise ImageError(f"image takes more than {self._seconds:g} s to decode: send a simpler one") from None
            raise ImageError("image takes too much memory to decode: send a smaller one") from None
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, process: subprocess.Popen[bytes], data: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(JOB.pack(len(data)))
        process.stdin.write(data)
        process.stdin.flush()
        head = process.stdout.read(ANSWER.size)
        if len(head) < ANSWER.size:
            raise EOFError
        failed, nbytes = ANSWER.unpack(head)
        body = process.stdout.read(nbytes)
        if len(body) < nbytes:
            raise EOFError
        if failed:
            raise ImageError(body.decode())
        return body

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "store.images.helper", self._settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        return self._process
