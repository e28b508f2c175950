"""Messages on their way are counted, in all and of each caller."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from serving.grpc.reading import Reading
from serving.http.errors import TransferError
from serving.http.limits import HttpLimits


def test_one_caller_has_half_of_the_places_and_gives_them_back() -> None:
    reading = Reading(HttpLimits(bodies_nbytes=100, image_nbytes=50))
    with ExitStack() as places:
        for _ in range(4):
            places.enter_context(reading.place("one"))
        with pytest.raises(TransferError, match="4 messages and streams"):
            places.enter_context(reading.place("one"))
        for _ in range(4):
            places.enter_context(reading.place("two"))
        with pytest.raises(TransferError, match="8 messages and streams"):
            places.enter_context(reading.place("three"))
    with reading.place("one"):
        pass
