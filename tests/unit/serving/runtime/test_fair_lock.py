"""Engines take turns in the order in which they ask."""

from __future__ import annotations

import threading

import pytest

from serving.runtime.fair_lock import FairLock


def test_one_at_a_time_and_who_asks_again_waits_for_those_before() -> None:
    turns, order, inside = FairLock(), [], threading.Lock()

    def take(name: str) -> None:
        for _ in range(200):
            with turns.taken():
                assert inside.acquire(blocking=False)
                order.append(name)
                inside.release()

    threads = [threading.Thread(target=take, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == ["a"] * 200 + ["b"] * 200


def test_a_turn_is_handed_on_in_the_order_of_asking() -> None:
    turns, order = FairLock(), []
    with turns.taken():
        threads = []
        for number in range(5):
            thread = threading.Thread(target=lambda number=number: _note(turns, order, number))
            thread.start()
            threads.append(thread)
            while turns._asked < number + 2:
                pass
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def _note(turns: FairLock, order: list[int], number: int) -> None:
    with turns.taken():
        order.append(number)


def test_a_turn_that_fails_is_handed_on() -> None:
    turns = FairLock()
    with pytest.raises(ZeroDivisionError), turns.taken():
        raise ZeroDivisionError
    with turns.taken():
        pass
