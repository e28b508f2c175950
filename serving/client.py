"""A client of the HTTP API; it needs neither torch nor Ray."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import urllib.parse
from collections.abc import Mapping, Sequence

from serving.images import IMAGES_TYPE, ImageSource, encoded, join_by_length
from serving.prediction import Prediction, ReceivedPrediction
from store.errors import InvalidSettingError, ServerError

SHOWN = 200  # characters of what a server said


class Client:
    """One kept connection to a onetrunk server; close it, or use it as a context manager. Threads take turns.

    `api_key` is the secret of an API key, for servers that ask for one. A request waits for `timeout_s` at most.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 120) -> None:
        if not timeout_s > 0:
            raise InvalidSettingError(f"timeout_s {timeout_s}: give seconds above 0")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise InvalidSettingError("the API key is not valid: give the secret as it was shown when the key was made")
        parts, port = _split(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._prefix = urllib.parse.quote(parts.path.rstrip("/"))
        self._connection = kind(parts.hostname or "", port, timeout=timeout_s)
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._turn = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def predict(self, ref: str, image: ImageSource, *, top: int = 5, logits: bool = False) -> Prediction:
        """Return the server's prediction; raise `ServerError` with the server's message where it has none."""
        return self.predict_many([ref], image, top=top, logits=logits)[0]

    def predict_many(
        self, refs: Sequence[str], image: ImageSource, *, top: int = 5, logits: bool = False
    ) -> tuple[Prediction, ...]:
        """Return the server's predictions for one image, in the order of the refs, from one request.

        They hold the best `top` labels, and with `logits` all logits. Raises `ServerError` with the server's message
        where it has no answer for one of the refs, and where what answers is not a onetrunk server.
        """
        if isinstance(refs, str) or not refs:
            raise InvalidSettingError(f"refs {refs!r}: give a list with at least one ref")
        return self._ask(refs, encoded(image), {}, len(refs), top=top, logits=logits)

    def predict_batch(
        self, ref: str, images: Sequence[ImageSource], *, top: int = 5, logits: bool = False
    ) -> tuple[Prediction, ...]:
        """Return one task's predictions for the images, in their order, from one request.

        Raises `ServerError` where the server has no answer for one of them, whose index its message names.
        """
        if isinstance(images, str | bytes) or not images:
            raise InvalidSettingError("the batch holds no image: give a list with at least one")
        body = join_by_length([encoded(image) for image in images])
        return self._ask([ref], body, {"Content-Type": IMAGES_TYPE}, len(images), top=top, logits=logits)

    def statistics(self) -> Mapping[str, object]:
        """Return what all replicas of the server did and do: `GET /v1/statistics`, see docs/observing.md."""
        status, body = self._send("GET", "/v1/statistics", None, {})
        answer = _json_object(body)
        if status != 200:
            raise ServerError(f"{self._url} answered {status}: {_message(answer, body)}")
        if "format" not in answer:
            raise ServerError(f"{self._url} does not answer as a onetrunk server does: check the address")
        return answer

    def _ask(
        self, refs: Sequence[str], body: bytes, headers: Mapping[str, str], count: int, *, top: int, logits: bool
    ) -> tuple[Prediction, ...]:
        query = {"ref": refs, "top": top, "logits": str(logits).lower()}
        target = f"/v1/predict?{urllib.parse.urlencode(query, doseq=True)}"
        status, body = self._send("POST", target, body, headers)
        answer = _json_object(body)
        if status != 200:
            raise ServerError(
                f"{self._url} answered {status} for {', '.join(map(repr, refs))}: {_message(answer, body)}"
            )
        try:
            predictions = tuple(map(ReceivedPrediction.from_dict, _answers(answer)))
        except (KeyError, TypeError, AttributeError):
            predictions = ()
        if len(predictions) != count:
            raise ServerError(f"{self._url} does not answer as a onetrunk server does: check the address")
        return predictions

    def _send(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        sent = {**self._headers, **_trace_context(), **headers}
        with self._turn:
            try:
                self._connection.request(method, self._prefix + target, body=body, headers=sent)
                response = self._connection.getresponse()
                return response.status, response.read()
            except TimeoutError:
                self._connection.close()  # else the late answer would be taken for the next one
                raise ServerError(f"{self._url} did not answer in time: wait longer with `timeout_s=`") from None
            except OSError as error:
                self._connection.close()
                raise ServerError(f"{self._url} does not answer ({error}): start it with `serve(store_url)`") from None
            except http.client.HTTPException as error:
                self._connection.close()
                raise ServerError(
                    f"{self._url} does not speak HTTP as it should ({type(error).__name__}): check the address"
                ) from None


def _split(url: str) -> tuple[urllib.parse.SplitResult, int | None]:
    """Return the parts of the address and its port; raise `ServerError` where it is not one."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
        valid = parts.scheme in ("http", "https") and host is not None and host == host.encode("idna").decode() != ""
    except (ValueError, AttributeError, TypeError):  # UnicodeError is a ValueError
        valid = False
    if not valid or any(character.isspace() for character in url):
        raise ServerError(f"{str(url)[:SHOWN]!r} is not a valid server address: write http://HOST:PORT")
    return parts, port


def _trace_context() -> dict[str, str]:
    """Return the headers of the caller's OpenTelemetry trace, where the program that calls has one."""
    propagate = sys.modules.get("opentelemetry.propagate")
    headers: dict[str, str] = {}
    if propagate is not None:
        propagate.inject(headers)
    return headers


def _message(answer: Mapping[str, object], body: bytes) -> str:
    return " ".join(str(answer.get("message", body[:SHOWN])).split())


def _json_object(body: bytes) -> Mapping[str, object]:
    """Return the JSON object in the body; an empty one for any other body."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _answers(answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    answers = answer["answers"]
    if not isinstance(answers, list):
        raise TypeError
    return answers
