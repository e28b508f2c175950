"""A client of the HTTP API."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Sequence
from typing import cast

from store.errors import ServerError


class Client:
    """A kept connection to a onetrunk server; `key` is the secret of an API key, where the server asks for one."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ServerError(f"{url!r} is no server address: write http://HOST:PORT")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._url = url
        self._prefix = parts.path.rstrip("/")
        self._connection = kind(parts.hostname, parts.port, timeout=120)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def close(self) -> None:
        self._connection.close()

    def predict(self, ref: str, image: bytes, *, top: int = 5, logits: bool = False) -> dict[str, object]:
        """Return the server's answer; raise `ServerError` with its message where it has none."""
        return self.predict_many([ref], image, top=top, logits=logits)[0]

    def predict_many(
        self, refs: Sequence[str], image: bytes, *, top: int = 5, logits: bool = False
    ) -> list[dict[str, object]]:
        """Return the server's answers for one image, in the order of the refs, asked for at once.

        Raises `ServerError` with the server's message where it has no answer for one of them.
        """
        options = {"ref": refs, "top": top, "logits": str(logits).lower()}
        target = f"{self._prefix}/v1/predict?{urllib.parse.urlencode(options, doseq=True)}"
        try:
            self._connection.request("POST", target, body=image, headers=self._headers)
            response = self._connection.getresponse()
            body = response.read()
        except OSError as error:
            raise ServerError(f"{self._url} does not answer ({error}): start it with `onetrunk serve`") from None
        answer = _object(body)
        if response.status != 200:
            raise ServerError(
                f"{self._url} answered {response.status} for {', '.join(map(repr, refs))}: "
                f"{answer.get('message', body[:200])}"
            )
        return cast(list[dict[str, object]], answer["answers"])


def _object(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def best(answer: dict[str, object]) -> tuple[str, float]:
    """The first label of an answer, and its score."""
    first = cast(list[dict[str, object]], answer["top"])[0]
    return cast(str, first["label"]), cast(float, first["score"])
