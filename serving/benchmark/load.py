"""Send a stream of images over HTTP from several clients, and measure the replies."""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
import urllib.parse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from serving.benchmark.quantiles import quantile
from serving.prediction import Prediction, ReceivedPrediction
from store.errors import OnetrunkError, ServerError

TIMEOUT_S = 120


@dataclass(frozen=True)
class LoadRequest:
    """An image for a task, and the label that is right."""

    ref: str
    image: bytes
    label: str


@dataclass(frozen=True)
class Reply:
    """The prediction that a server sent for a request, and how long the client waited, in seconds."""

    request: LoadRequest
    prediction: Prediction
    latency_s: float

    @property
    def is_right(self) -> bool:
        return self.prediction.top(1)[0].label == self.request.label


@dataclass(frozen=True)
class LoadResult:
    """All replies in the order of the requests, and the wall time of the whole stream in seconds."""

    replies: tuple[Reply, ...]
    seconds: float

    @property
    def images_per_second(self) -> float:
        return len(self.replies) / self.seconds

    @property
    def accuracy(self) -> float:
        return statistics.fmean(reply.is_right for reply in self.replies)

    def latency_s(self, share: float) -> float:
        """Return the smallest latency that at least this share of the replies did not exceed."""
        return quantile([reply.latency_s for reply in self.replies], share)


def ask(connection: http.client.HTTPConnection, request: LoadRequest, prefix: str) -> Prediction:
    """Send one image with no more work than that takes: what the client does, the server cannot do meanwhile."""
    connection.request("POST", f"{prefix}/v1/predict/{urllib.parse.quote(request.ref)}", body=request.image)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise ServerError(f"the server answered {response.status} for {request.ref!r}: {body[:200]!r}")
    return ReceivedPrediction.from_dict(json.loads(body))


def run_load(url: str, requests: Sequence[LoadRequest], *, clients: int) -> LoadResult:
    """Send every request once, each client one at a time over its own connection; raise the first failure."""
    queue: SimpleQueue[int] = SimpleQueue()
    for index in range(len(requests)):
        queue.put(index)
    replies: dict[int, Reply] = {}
    failures: list[Exception] = []

    def client() -> None:
        parts = urllib.parse.urlsplit(url)
        with closing(http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)) as connection:
            try:
                while not failures:
                    index = queue.get_nowait()
                    start = time.perf_counter()
                    prediction = ask(connection, requests[index], parts.path.rstrip("/"))
                    replies[index] = Reply(requests[index], prediction, time.perf_counter() - start)
            except Empty:
                return
            except (OSError, http.client.HTTPException, OnetrunkError) as error:
                failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return LoadResult(tuple(replies[index] for index in range(len(requests))), time.perf_counter() - start)
