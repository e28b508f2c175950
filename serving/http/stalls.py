"""Predictions that stand still: few of them may keep a place of a replica.

The ingress gives a replica so many small predictions at a time. Those that wait for a store that does not answer, or
for an image that takes seconds to decode, would keep every place, and nothing else would be answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from serving.telemetry.request_record import RequestRecord
from store.errors import OverloadedError

T = TypeVar("T")
STALLED_S = 1.0


class Stalls:
    """Counts the predictions that are not with the engine after a second; used by one thread alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: set[RequestRecord] = set()

    async def bound(self, answer: Awaitable[T], record: RequestRecord) -> T:
        """Wait for the answer; raise `OverloadedError` where it stands still and as many as may do so already."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                timer = loop.call_later(STALLED_S, self._look, record, limit)
                try:
                    return await answer
                finally:
                    timer.cancel()
                    self._kept.discard(record)
        except TimeoutError:
            if not limit.expired():
                raise
            raise OverloadedError(
                f"{self._most} predictions wait for the store or for images that decode slowly, which is the most: "
                "try again later"
            ) from None

    def _look(self, record: RequestRecord, limit: asyncio.Timeout) -> None:
        if record.is_with_engine:
            return
        if len(self._kept) < self._most:
            self._kept.add(record)
        else:
            limit.reschedule(asyncio.get_running_loop().time())
