"""A client that waits for its answers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx

from serving.client import requests
from serving.client.answers import FAILURES, ImageAnswer, Received, Receiver, explain, read_predictions, read_statistics
from serving.client.requests import Request, batches, check_settings, list_images
from serving.images import ImageSource
from serving.prediction import Prediction

Progress = Callable[[int, int], object]


class Client:
    """Kept connections to a onetrunk server; close it, or use it as a context manager. Threads may share it.

    `api_key` is the secret of an API key, for servers that ask for one. An attempt waits for `timeout_s` at most. What
    the server refuses for now (429, 503) is sent again `retries` times at most, once `Retry-After` is over, which may
    be up to half a minute. `ca_file` is the certificate of an authority of your own.

    Where an alias is split, `split_key=` of a request decides which version answers: the same key always gets the same
    one. Give what names your user, as up to 256 printable ASCII characters. Without it the server decides by chance.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 120,
        retries: int = 3,
        ca_file: str | Path | None = None,
    ) -> None:
        self._settings = check_settings(url, api_key=api_key, timeout_s=timeout_s, retries=retries, ca_file=ca_file)
        self._http = httpx.Client(**self._settings.http)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def predict(
        self, ref: str, image: ImageSource, *, top: int = 5, logits: bool = False, split_key: str | None = None
    ) -> Prediction:
        """Return the server's prediction; raise `ServerError` with the server's message where it has none."""
        return self.predict_many([ref], image, top=top, logits=logits, split_key=split_key)[0]

    def predict_many(
        self,
        refs: Sequence[str],
        image: ImageSource,
        *,
        top: int = 5,
        logits: bool = False,
        split_key: str | None = None,
    ) -> tuple[Prediction, ...]:
        """Return the server's predictions for one image, in the order of the refs, from one request.

        They hold the best `top` labels, and with `logits` all logits. Raises `ServerError` with the server's message
        where it has no answer for one of the refs, and where what answers is not a onetrunk server.
        """
        received = self._send(requests.predict(refs, image, top=top, logits=logits, split_key=split_key))
        return read_predictions(received, ", ".join(map(repr, refs)), len(refs), self._settings.address)

    def predict_batch(
        self,
        ref: str,
        images: Sequence[ImageSource],
        *,
        top: int = 5,
        logits: bool = False,
        split_key: str | None = None,
    ) -> tuple[Prediction, ...]:
        """Return one task's predictions for the images, in their order, from one request.

        Raises `ServerError` where the server has no answer for one of them, whose index its message names.
        """
        received = self._send(requests.predict_batch(ref, images, top=top, logits=logits, split_key=split_key))
        return read_predictions(received, repr(ref), len(images), self._settings.address)

    def predict_folder(
        self,
        ref: str,
        folder: str | Path,
        *,
        top: int = 5,
        logits: bool = False,
        split_key: str | None = None,
        batch: int = 16,
        progress: Progress | None = None,
    ) -> Iterator[ImageAnswer]:
        """Yield what each image file in the folder gets, by name; one that is not an image does not stop the others.

        `batch` files are one request. `progress` is called with how many are answered, and how many there are.
        """
        paths, address = list_images(folder), self._settings.address
        ask = partial(requests.predict_batch, ref, top=top, logits=logits, split_key=split_key)
        answered = 0
        for group in batches(paths, batch):
            answers = list(group.unread)
            if group.images:
                received = self._send(ask(group.images))
                if group.is_split(received):
                    for one in group.alone():
                        sent = self._send(ask(one.images))
                        answers += one.answers(sent, address)
                else:
                    answers += group.answers(received, address)
            answered += len(answers)
            yield from sorted(answers, key=lambda answer: answer.path)
            if progress is not None:
                progress(answered, len(paths))

    def statistics(self, *, tasks: int | None = None) -> Mapping[str, object]:
        """Return what all replicas of the server did and do: `GET /v1/statistics`, see docs/observing.md.

        `tasks` is how many tasks are in it at most: those that were answered most, 100 by default.
        """
        return read_statistics(self._send(requests.statistics(tasks)), self._settings.address)

    def _send(self, request: Request) -> Received:
        for attempt in itertools.count():
            received = self._send_once(request)
            wait_s = self._settings.retries.wait_s(received.status, received.headers, attempt)
            if wait_s is None:
                return received
            time.sleep(wait_s)
        raise AssertionError("it ends by returning")

    def _send_once(self, request: Request) -> Received:
        address, url = self._settings.address, self._settings.address.base + request.target
        receiver = Receiver(address, self._settings.timeout_s)
        try:
            stream = self._http.stream(request.method, url, content=request.body, headers=request.headers)
            with stream as response:
                for part in response.iter_bytes():
                    receiver.add(part)
                return receiver.received(response)
        except FAILURES as error:
            raise explain(error, address) from None
