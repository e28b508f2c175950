"""Closed-loop clients that note how each of their requests ended, while something is done to the server."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from serving.cluster.descendants import command_of, descendants

REFUSED, BROKEN = "refused", "broken"
"""No connection was taken; a connection ended before the answer to a request that was sent."""


@dataclass(frozen=True)
class Ending:
    """How a request ended: the status of its answer, `REFUSED` or `BROKEN`."""

    at: float
    seconds: float
    how: int | str


@dataclass
class SteadyLoad:
    """A context in which `clients` threads post one image, for one task after the other, each as fast as it can."""

    url: str
    tasks: Sequence[str]
    image: bytes
    clients: int = 16
    endings: list[Ending] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> SteadyLoad:
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def counts(self) -> Counter[int | str]:
        return Counter(ending.how for ending in self.endings)

    def failed(self) -> int:
        return sum(count for how, count in self.counts().items() if how != 200)

    def _run(self, index: int) -> None:
        address = urlsplit(self.url)
        assert address.hostname is not None
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        while not self._stop.is_set():
            path = f"{address.path}/v1/predict/{self.tasks[index % len(self.tasks)]}"
            start = time.monotonic()
            how = self._post(connection, path)
            self.endings.append(Ending(time.monotonic(), time.monotonic() - start, how))
            index += 1
            if how != 200:
                time.sleep(0.02)
        connection.close()

    def _post(self, connection: http.client.HTTPConnection, path: str) -> int | str:
        try:
            connection.request("POST", path, self.image)
            answer = connection.getresponse()
            answer.read()
        except ConnectionRefusedError:
            connection.close()
            return REFUSED
        except (OSError, http.client.HTTPException):
            connection.close()
            return BROKEN
        return answer.status


def replicas_of(pid: int) -> Sequence[int]:
    """Return the processes of a server that answer, as Ray names them."""
    return [each for each in descendants(pid) if any(part.startswith("ray::ServeReplica") for part in command_of(each))]


def processes_with(marker: str) -> Sequence[int]:
    """Return the processes in whose environment this text is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended, or is another user's
    return found


def wait_until(true: object, *, within_s: float) -> float | None:
    """Return the seconds until the condition, a function without arguments, is true; None where it stays false."""
    assert callable(true)
    start = time.monotonic()
    while time.monotonic() - start < within_s:
        if true():
            return time.monotonic() - start
        time.sleep(0.05)
    return None
