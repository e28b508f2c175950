"""A client of the HTTP API; it needs neither torch nor Ray."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Sequence
from typing import cast

from serving.images import ImageSource, encoded
from serving.prediction import Prediction, ReceivedPrediction
from store.errors import ServerError


class Client:
    """One kept connection to a onetrunk server; close it, or use it as a context manager.

    `api_key` is the secret of an API key, for servers that ask for one. A request waits for `timeout_s` at most.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 120) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ServerError(f"{url!r} is not a valid server address: write http://HOST:PORT")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._url = url
        self._prefix = parts.path.rstrip("/")
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

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
        where it has no answer for one of the refs.
        """
        answers = self._post(refs, encoded(image), {"ref": refs, "top": top, "logits": str(logits).lower()})
        return tuple(ReceivedPrediction.from_dict(answer) for answer in answers)

    def _post(self, refs: Sequence[str], image: bytes, query: dict[str, object]) -> list[dict[str, object]]:
        target = f"{self._prefix}/v1/predict?{urllib.parse.urlencode(query, doseq=True)}"
        try:
            self._connection.request("POST", target, body=image, headers=self._headers)
            response = self._connection.getresponse()
            body = response.read()
        except OSError as error:
            raise ServerError(f"{self._url} does not answer ({error}): start it with `serve(store_url)`") from None
        answer = _json_object(body)
        if response.status != 200:
            raise ServerError(
                f"{self._url} answered {response.status} for {', '.join(map(repr, refs))}: "
                f"{answer.get('message', body[:200])}"
            )
        return cast(list[dict[str, object]], answer["answers"])


def _json_object(body: bytes) -> dict[str, object]:
    """Return the JSON object in the body; an empty one for any other body."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
