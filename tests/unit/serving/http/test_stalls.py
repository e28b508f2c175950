from __future__ import annotations

import asyncio

import pytest

from serving.http import stalls
from serving.http.stalls import Stalls
from serving.telemetry.request_record import RequestRecord
from store.errors import OverloadedError

SCOPE = {"method": "POST", "headers": []}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(stalls, "STALLED_S", 0.01)


def record() -> RequestRecord:
    return RequestRecord(SCOPE, "/v1/predict/flowers")


def test_what_stands_still_is_refused_beyond_the_most_and_takes_its_place_back_at_its_end():
    async def check() -> None:
        bound, released = Stalls(2), asyncio.Event()
        kept = [asyncio.create_task(bound.bound(released.wait(), record())) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError, match="2 predictions wait for the store"):
            await asyncio.wait_for(bound.bound(asyncio.Event().wait(), record()), 10)
        released.set()
        assert await asyncio.gather(*kept) == [True, True]
        later = asyncio.create_task(bound.bound(asyncio.sleep(0.1, "answer"), record()))
        assert await later == "answer"

    asyncio.run(check())


def test_what_the_engine_has_is_never_refused():
    async def check() -> None:
        queued = record()
        queued.begin_image().queued = True
        assert await Stalls(0).bound(asyncio.sleep(0.1, "answer"), queued) == "answer"

    asyncio.run(check())


def test_the_time_limit_of_what_is_waited_for_is_not_taken_for_a_stall():
    async def late() -> None:
        raise TimeoutError("of the body")

    with pytest.raises(TimeoutError, match="of the body"):
        asyncio.run(Stalls(0).bound(late(), record()))
