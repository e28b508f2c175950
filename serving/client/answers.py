"""What a server said: predictions, or one line that says why there are none."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from serving.client.address import SHOWN, Address
from serving.prediction import Prediction, ReceivedPrediction
from store.errors import ServerError

MOST_NBYTES = 64 << 20  # of an answer
FAILURES = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, UnicodeError)
"""What httpx raises where no answer comes."""


@dataclass(frozen=True)
class Received:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class ImageAnswer:
    """What a file of a folder got: a prediction, or the line that says why it has none."""

    path: Path
    prediction: Prediction | None
    problem: str | None = None


class Receiver:
    """Collects one answer, bounded in bytes and in time, however slowly it comes."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address, self._end = address, time.monotonic() + timeout_s
        self._parts: list[bytes] = []
        self._nbytes = 0

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self._nbytes += len(part)
        if self._nbytes > MOST_NBYTES:
            raise ServerError(f"{self._address.url} sends more than {MOST_NBYTES:,} bytes: check the address")
        if time.monotonic() > self._end:
            raise late(self._address)

    def received(self, response: httpx.Response) -> Received:
        return Received(response.status_code, response.headers, b"".join(self._parts))


def late(address: Address) -> ServerError:
    return ServerError(f"{address.url} did not answer in time: wait longer with `timeout_s=`")


def explain(error: Exception, address: Address) -> ServerError:
    """Return the one line for a failure to get an answer."""
    text = " ".join(str(error).split())[:SHOWN] or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return late(address)
    hung_up = isinstance(error, httpx.RemoteProtocolError) and text.startswith("Server disconnected")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return ServerError(
            f"{address.url} has a certificate that is not trusted ({text}): give its authority's file with `ca_file=`"
        )
    if hung_up:
        return ServerError(f"{address.url} does not answer in HTTP but hangs up: check the address")
    if isinstance(error, httpx.NetworkError | OSError):
        return ServerError(f"{address.url} does not answer ({text}): start it with `serve(store_url)`")
    return ServerError(f"{address.url} does not speak HTTP as it should ({text}): check the address")


def read_predictions(received: Received, asked: str, count: int, address: Address) -> tuple[Prediction, ...]:
    """Return so many predictions; raise `ServerError` with the server's message where there are none."""
    answer = read_object(received)
    if received.status != 200:
        raise ServerError(f"{address.url} answered {received.status} for {asked}: {message_of(received)}")
    answers = answer.get("answers")
    try:
        predictions = tuple(map(ReceivedPrediction.from_dict, answers)) if isinstance(answers, list) else ()
    except (KeyError, TypeError, AttributeError):
        predictions = ()
    if len(predictions) != count:
        raise stranger(address)
    return predictions


def read_statistics(received: Received, address: Address) -> Mapping[str, object]:
    answer = read_object(received)
    if received.status != 200:
        raise ServerError(f"{address.url} answered {received.status}: {message_of(received)}")
    if "format" not in answer:
        raise stranger(address)
    return answer


def stranger(address: Address) -> ServerError:
    return ServerError(f"{address.url} does not answer as a onetrunk server does: check the address")


def message_of(received: Received) -> str:
    shown = read_object(received).get("message", received.body[:SHOWN])
    return " ".join(str(shown).split())


def read_object(received: Received) -> Mapping[str, object]:
    """Return the JSON object in the body; an empty one for any other body."""
    try:
        value = json.loads(received.body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
