"""The same client for an event loop: every method is a coroutine, or an iterator of `async for`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx

from serving.client import requests
from serving.client.answers import FAILURES, ImageAnswer, Received, Receiver, explain, read_predictions, read_statistics
from serving.client.blocking import Progress
from serving.client.requests import Request, batches, check_settings, list_images
from serving.images import ImageSource
from serving.prediction import Prediction


class AsyncClient:
    """What `Client` is, for an event loop, with the same arguments; use it with `async with`, or await `aclose`."""

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
        self._http = httpx.AsyncClient(**self._settings.http)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def predict(
        self, ref: str, image: ImageSource, *, top: int = 5, logits: bool = False, split_key: str | None = None
    ) -> Prediction:
        """Return the server's prediction; raise `ServerError` with the server's message where it has none."""
        return (await self.predict_many([ref], image, top=top, logits=logits, split_key=split_key))[0]

    async def predict_many(
        self,
        refs: Sequence[str],
        image: ImageSource,
        *,
        top: int = 5,
        logits: bool = False,
        split_key: str | None = None,
    ) -> tuple[Prediction, ...]:
        """Return the server's predictions for one image, in the order of the refs, from one request."""
        received = await self._send(requests.predict(refs, image, top=top, logits=logits, split_key=split_key))
        return read_predictions(received, ", ".join(map(repr, refs)), len(refs), self._settings.address)

    async def predict_batch(
        self,
        ref: str,
        images: Sequence[ImageSource],
        *,
        top: int = 5,
        logits: bool = False,
        split_key: str | None = None,
    ) -> tuple[Prediction, ...]:
        """Return one task's predictions for the images, in their order, from one request."""
        received = await self._send(requests.predict_batch(ref, images, top=top, logits=logits, split_key=split_key))
        return read_predictions(received, repr(ref), len(images), self._settings.address)

    async def predict_folder(
        self,
        ref: str,
        folder: str | Path,
        *,
        top: int = 5,
        logits: bool = False,
        split_key: str | None = None,
        batch: int = 16,
        progress: Progress | None = None,
    ) -> AsyncIterator[ImageAnswer]:
        """Yield what each image file in the folder gets, by name; one that is not an image does not stop the others."""
        paths, address = list_images(folder), self._settings.address
        ask = partial(requests.predict_batch, ref, top=top, logits=logits, split_key=split_key)
        answered = 0
        for group in batches(paths, batch):
            answers = list(group.unread)
            if group.images:
                received = await self._send(ask(group.images))
                if group.is_split(received):
                    for one in group.alone():
                        sent = await self._send(ask(one.images))
                        answers += one.answers(sent, address)
                else:
                    answers += group.answers(received, address)
            answered += len(answers)
            for answer in sorted(answers, key=lambda answer: answer.path):
                yield answer
            if progress is not None:
                progress(answered, len(paths))

    async def statistics(self, *, tasks: int | None = None) -> Mapping[str, object]:
        """Return what all replicas of the server did and do: `GET /v1/statistics`, see docs/observing.md.

        `tasks` is how many tasks are in it at most: those that were answered most, 100 by default.
        """
        return read_statistics(await self._send(requests.statistics(tasks)), self._settings.address)

    async def _send(self, request: Request) -> Received:
        for attempt in itertools.count():
            received = await self._send_once(request)
            wait_s = self._settings.retries.wait_s(received.status, received.headers, attempt)
            if wait_s is None:
                return received
            await asyncio.sleep(wait_s)
        raise AssertionError("it ends by returning")

    async def _send_once(self, request: Request) -> Received:
        address, url = self._settings.address, self._settings.address.base + request.target
        receiver = Receiver(address, self._settings.timeout_s)
        try:
            stream = self._http.stream(request.method, url, content=request.body, headers=request.headers)
            async with stream as response:
                async for part in response.aiter_bytes():
                    receiver.add(part)
                return receiver.received(response)
        except FAILURES as error:
            raise explain(error, address) from None
