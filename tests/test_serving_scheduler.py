from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.scheduler import Scheduler
from store.errors import OverloadedError


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 8))
def test_requests_leave_in_the_order_they_came_whatever_is_taken_between(moves, max_rows):
    scheduler, came, left = Scheduler(max_rows=max_rows), 0, []
    for move in moves:
        if move:
            scheduler.admit(came)
            came += 1
        else:
            left += scheduler.take()
    while len(scheduler):
        left += scheduler.take()
    assert left == list(range(came))


def test_a_batch_takes_all_that_wait_up_to_the_bound():
    scheduler = Scheduler(max_rows=3)
    for request in "abcd":
        scheduler.admit(request)
    assert scheduler.take() == ["a", "b", "c"]
    assert scheduler.take() == ["d"]
    assert scheduler.take() == []


def test_a_full_queue_refuses_the_next_request_with_the_remedy():
    scheduler = Scheduler(max_waiting=1)
    scheduler.admit("a")
    with pytest.raises(OverloadedError, match="at most 1 may: try again later"):
        scheduler.admit("b")
