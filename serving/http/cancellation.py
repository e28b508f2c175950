"""Wait for predictions for as long as the client does; a client that goes away costs nothing from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from serving.prediction import Prediction

T = TypeVar("T")


async def wait_for(
    workers: ThreadPoolExecutor, submit: Callable[[], tuple[Future[Prediction], ...]]
) -> list[Prediction]:
    """Submit in a worker and wait; raise the first failure. At the end, and when this is cancelled, cancel the rest."""
    submitted = workers.submit(submit)
    try:
        futures = await asyncio.wrap_future(submitted)
        return await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
    finally:
        submitted.add_done_callback(cancel_predictions)  # a worker that runs cannot be stopped, only its predictions


def cancel_predictions(submitted: Future[tuple[Future[Prediction], ...]]) -> None:
    if not submitted.cancelled() and submitted.exception() is None:
        for future in submitted.result():
            future.cancel()


async def cancel_on_disconnect(request: Request, work: Coroutine[object, object, T]) -> T | None:
    """Wait for the work; cancel it and return None once the client is gone."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()


async def wait_for_disconnect(request: Request) -> None:
    """Return once the client is gone; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
