"""Wait for answers for as long as the client does: one that goes away costs nothing from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from serving.runtime.predictor import Prediction

T = TypeVar("T")


async def wait_for(
    workers: ThreadPoolExecutor, submit: Callable[[], tuple[Future[Prediction], ...]]
) -> list[Prediction]:
    """Queue by a worker and wait; raise the first failure. Whatever is left is cancelled, and so if this is."""
    queued = workers.submit(submit)
    try:
        answers = await asyncio.wrap_future(queued)
        return await asyncio.gather(*(asyncio.wrap_future(answer) for answer in answers))
    finally:
        queued.add_done_callback(cancel_answers)  # a worker that is at it cannot be stopped, only what it queues


def cancel_answers(queued: Future[tuple[Future[Prediction], ...]]) -> None:
    if not queued.cancelled() and queued.exception() is None:
        for answer in queued.result():
            answer.cancel()


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
