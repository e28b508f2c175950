"""Several images of one request: each waits for its own turn, and one that fails fails the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from starlette.types import Receive

from serving.http.cancellation import wait_for
from serving.prediction import Prediction
from store.errors import ImageError

T = TypeVar("T")


async def predict_each(
    images: Sequence[T], submit: Callable[[T], tuple[Future[Prediction], ...]], receive: Receive
) -> list[Prediction]:
    """Return the predictions of one task for the images, in their order; one that fails is named by its index."""
    futures: list[Future[Prediction]] = []
    try:
        for image in images:
            futures += submit(image)
            await asyncio.sleep(0)  # small images are decoded here, and others wait for the event loop
        return await wait_for(futures, receive)
    except ImageError as error:
        failed = (index for index, future in enumerate(futures) if future.done() and not future.cancelled())
        index = next((i for i in failed if futures[i].exception() is error), len(futures))
        raise ImageError(f"images[{index}]: {error}") from None
    finally:
        for future in futures:
            future.cancel()
