"""Clients that ask for predictions one after the other, and compare each answer with the one that is right."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

RIGHT, WRONG, BROKEN = "right", "wrong", "broken"
TOLERANCE = 0.05
"""Between two kernels of the same numbers; what two tasks or versions answer differs by far more."""


@dataclass(frozen=True)
class Asked:
    """A ref, and the version and the logits of the right answer."""

    ref: str
    version: int
    logits: Sequence[float]


@dataclass(frozen=True)
class Ending:
    at: float
    seconds: float
    how: str
    """RIGHT, WRONG, BROKEN, or the status of a refusal."""
    request_id: str = ""
    body: str = ""


@dataclass
class CheckedLoad:
    """A context in which `clients` threads ask, each as fast as it is answered."""

    url: str
    key: str
    image: bytes
    asked: Sequence[Asked]
    clients: int = 8
    endings: list[Ending] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> CheckedLoad:
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def report(self, *, begin: float = 0.0, end: float = float("inf")) -> Mapping[str, object]:
        """Count the requests that ended in this time."""
        ended = [ending for ending in self.endings if begin <= ending.at < end]
        took = sorted(ending.seconds for ending in ended if ending.how == RIGHT)
        span = max(ending.at for ending in ended) - min(ending.at for ending in ended) if ended else 0.0
        return {
            "requests": len(ended),
            "endings": dict(Counter(ending.how for ending in ended)),
            "per_s": round(len(took) / span, 1) if span else 0.0,
            "p50_ms": round(1e3 * took[len(took) // 2], 1) if took else None,
            "p99_ms": round(1e3 * took[len(took) * 99 // 100], 1) if took else None,
            "max_ms": round(1e3 * took[-1], 1) if took else None,
        }

    def failures(self) -> Sequence[Ending]:
        return [ending for ending in self.endings if ending.how != RIGHT]

    def _run(self, index: int) -> None:
        address = urlsplit(self.url)
        assert address.hostname is not None
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        while not self._over.is_set():
            ending = self._ask(connection, self.asked[index % len(self.asked)])
            self.endings.append(ending)
            index += 1
            if ending.how not in (RIGHT, WRONG):
                connection.close()
                self._over.wait(0.2)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, asked: Asked) -> Ending:
        start = time.monotonic()
        try:
            headers = {"Authorization": f"Bearer {self.key}"}
            connection.request("POST", f"/v1/predict/{asked.ref}?logits=true", self.image, headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            now = time.monotonic()
            return Ending(now, now - start, BROKEN, body=repr(error))
        now = time.monotonic()
        request_id = answer.headers.get("x-request-id", "")
        if answer.status != 200:
            return Ending(now, now - start, str(answer.status), request_id, body[:300].decode(errors="replace"))
        how = RIGHT if is_right(json.loads(body), asked) else WRONG
        return Ending(now, now - start, how, request_id, "" if how == RIGHT else body[:300].decode())


def is_right(answer: Mapping[str, object], asked: Asked) -> bool:
    logits = answer["logits"]
    assert isinstance(logits, list)
    scale = max(map(abs, asked.logits))
    same = len(logits) == len(asked.logits) and all(
        abs(got - right) <= TOLERANCE * scale for got, right in zip(logits, asked.logits, strict=True)
    )
    return same and answer["version"] == asked.version and answer["task"] == asked.ref.partition(":")[0]
