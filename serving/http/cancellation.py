"""Wait for predictions for as long as the client does; a client that goes away costs nothing from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock

from starlette.types import Receive

from serving.http.errors import ClientGoneError
from serving.prediction import Prediction


async def wait_for(futures: Sequence[Future[Prediction]], receive: Receive) -> list[Prediction]:
    """Return the predictions; raise the first failure, or `ClientGoneError` once the client is gone.

    At the end, and when this is cancelled, those that are not there are cancelled. The body has been read before.
    """
    outcome = first_failure(futures)
    gone = asyncio.ensure_future(disconnected(receive))
    gone.add_done_callback(lambda _: set_outcome(outcome, ClientGoneError()))
    try:
        await outcome
        return [future.result() for future in futures]
    finally:
        gone.cancel()
        for future in futures:
            future.cancel()


def first_failure(futures: Sequence[Future[Prediction]]) -> asyncio.Future[None]:
    """Return a future of this loop that ends with all or with the first failure; the loop is woken once for them."""
    loop, left, lock = asyncio.get_running_loop(), len(futures), Lock()
    outcome: asyncio.Future[None] = loop.create_future()

    def count(future: Future[Prediction]) -> None:
        nonlocal left
        error = ClientGoneError() if future.cancelled() else future.exception()
        with lock:
            left -= 1
            over = error is not None or left == 0
        if over:
            loop.call_soon_threadsafe(set_outcome, outcome, error)

    for future in futures:
        future.add_done_callback(count)
    return outcome


def set_outcome(outcome: asyncio.Future[None], error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(None)
    else:
        outcome.set_exception(error)


async def disconnected(receive: Receive) -> None:
    """Return once the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
