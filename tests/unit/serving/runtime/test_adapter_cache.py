"""The adapter cache: which tasks stay in memory, which are evicted, and who waits for a load."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import pytest
import torch

from serving.runtime.adapter_cache import CEILING, LOADERS, AdapterCache, Pin
from serving.runtime.idle_tasks import AGAIN_SHARE, AGE
from store.errors import OverloadedError
from store.weights.forms import Forms, TaskWeights


def weights(nbytes: int) -> TaskWeights:
    """A task of exactly this many bytes."""
    return TaskWeights(1, Forms(), torch.zeros(nbytes, dtype=torch.uint8), torch.zeros(0), ("a", "b"))


@contextmanager
def pinned(cache: AdapterCache, digest: str, load: Callable[[], TaskWeights]) -> Iterator[TaskWeights]:
    """The task once it is loaded; it stays resident while the block runs."""
    with closing(cache.acquire(digest, load)) as pin:
        yield pin.weights.result()


def use(cache: AdapterCache, digest: str, nbytes: int = 10) -> None:
    with pinned(cache, digest, lambda: weights(nbytes)):
        pass


def test_the_least_recently_used_task_leaves_when_the_budget_is_passed_those_used_again_last():
    cache = AdapterCache(budget_nbytes=30)
    for digest in ("a", "b", "c", "a", "d"):
        use(cache, digest)
    assert cache.resident == ("c", "d", "a")
    assert (cache.nbytes, cache.loads) == (30, 4)


def test_tasks_that_are_asked_for_once_drive_out_none_that_is_used_again():
    cache = AdapterCache(budget_nbytes=100)
    for digest in 2 * [f"hot {index}" for index in range(6)]:
        use(cache, digest)
    for index in range(100):
        use(cache, f"cold {index}")
    assert {f"hot {index}" for index in range(6)} < set(cache.resident)


def test_tasks_that_were_used_again_long_ago_make_room_for_those_that_are_used_now():
    """In turn, which is the worst order: none of them is asked for again before it would have left."""
    cache = AdapterCache(budget_nbytes=100)
    for digest in 3 * [f"old {index}" for index in range(8)]:
        use(cache, digest)
    for digest in 2 * AGE * [f"new {index}" for index in range(8)]:
        use(cache, digest)
    assert {f"new {index}" for index in range(8)} < set(cache.resident)


def test_a_task_in_use_stays_even_above_the_budget_and_leaves_after():
    cache = AdapterCache(budget_nbytes=15)
    with pinned(cache, "a", lambda: weights(10)) as held:
        use(cache, "b")
        assert cache.resident == ("a",)
        assert held.nbytes == 10
    use(cache, "c")
    assert cache.resident == ("c",)


def test_however_many_ask_at_once_a_task_is_loaded_once():
    cache, loads, asked = AdapterCache(budget_nbytes=100), [], threading.Barrier(8)

    def load() -> TaskWeights:
        loads.append(threading.get_ident())
        return weights(10)

    def ask(_: int) -> int:
        asked.wait()
        with pinned(cache, "a", load) as held:
            return id(held)

    with ThreadPoolExecutor(8) as workers:
        assert len(set(workers.map(ask, range(8)))) == 1
    assert len(loads) == 1


def test_a_load_that_fails_fails_its_request_and_the_next_one_tries_again():
    cache = AdapterCache(budget_nbytes=100)

    def fail() -> TaskWeights:
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"), pinned(cache, "a", fail):
        pass
    assert cache.resident == ()
    use(cache, "a")
    assert cache.resident == ("a",)


def test_tasks_in_the_cache_are_used_while_every_loading_thread_waits_for_a_slow_disk():
    cache, disk = AdapterCache(budget_nbytes=100), threading.Event()
    use(cache, "hot")

    def load_slowly() -> TaskWeights:
        disk.wait()
        return weights(10)

    cold = [cache.acquire(f"cold {index}", load_slowly) for index in range(2 * LOADERS)]
    use(cache, "hot")
    assert not any(pin.weights.done() for pin in cold)
    disk.set()
    assert [pin.weights.result().nbytes for pin in cold] == [10] * len(cold)


def test_a_pin_that_is_closed_before_the_task_is_loaded_leaves_it_to_the_others_and_to_the_budget():
    cache, disk = AdapterCache(budget_nbytes=10), threading.Event()

    def load() -> TaskWeights:
        disk.wait()
        return weights(10)

    first, second = cache.acquire("a", load), cache.acquire("a", load)
    assert not first.weights.cancel()
    first.close()
    first.close()
    disk.set()
    second.weights.result()
    use(cache, "b")
    assert cache.resident == ("a",)
    second.close()
    assert cache.resident == ("a",)
    use(cache, "b")
    assert cache.resident == ("b",)


def test_where_tasks_in_use_alone_pass_the_ceiling_another_is_refused_until_some_are_released():
    cache = AdapterCache(budget_nbytes=20)
    with ExitStack() as stack:
        for index in range(CEILING * 2):
            stack.enter_context(pinned(cache, str(index), lambda: weights(10)))
        assert cache.nbytes == CEILING * 20
        with pytest.raises(OverloadedError, match="tasks in use take 40 bytes of memory, 40 are the most: try again"):
            use(cache, "one more")
        use(cache, "0")
    assert cache.nbytes == 20
    use(cache, "one more")
    assert set(cache.resident) == {"0", "one more"}


class PlainCache:
    """The slow twin: two lists, last used last, searched and summed at every step."""

    def __init__(self, budget_nbytes: int) -> None:
        self.budget_nbytes = budget_nbytes
        self.once: list[str] = []
        self.again: list[str] = []
        self.pins: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.seen_again: set[str] = set()
        self.turns: dict[str, int] = {}
        self.turn = 0

    def acquire(self, digest: str, nbytes: int) -> None:
        if digest in self.pins:
            self.seen_again.add(digest)
        self.pins[digest] = self.pins.get(digest, 0) + 1
        self.sizes[digest] = nbytes
        self.once, self.again = ([name for name in names if name != digest] for names in (self.once, self.again))
        self._evict()

    def release(self, digest: str) -> None:
        self.pins[digest] -= 1
        if not self.pins[digest]:
            self.turn += digest not in self.seen_again
            self.turns[digest] = self.turn
            (self.again if digest in self.seen_again else self.once).append(digest)
            while self.again and self._counts_as_new(self.again[0]):
                self.once.append(self.again.pop(0))
        self._evict()

    def _counts_as_new(self, oldest: str) -> bool:
        too_many = sum(map(self.sizes.__getitem__, self.again)) > AGAIN_SHARE * self.budget_nbytes
        return too_many or self.turn - self.turns[oldest] > AGE * len(self.idle)

    def _evict(self) -> None:
        while self.nbytes > self.budget_nbytes and self.idle:
            digest = self.idle[0]
            self.once, self.again = ([name for name in names if name != digest] for names in (self.once, self.again))
            del self.pins[digest]
            self.seen_again.discard(digest)

    @property
    def idle(self) -> list[str]:
        return [*self.once, *self.again]

    @property
    def nbytes(self) -> int:
        return sum(map(self.sizes.__getitem__, self.pins))


def test_any_order_of_acquiring_and_releasing_leaves_what_two_plain_lists_would():
    draw, cache, twin = random.Random(7), AdapterCache(budget_nbytes=300), PlainCache(300)
    sizes = {f"task {index}": draw.randint(1, 60) for index in range(40)}
    open_pins: list[tuple[str, Pin]] = []
    for _ in range(3000):
        if open_pins and draw.random() < 0.2 + 0.1 * len(open_pins):
            digest, pin = open_pins.pop(draw.randrange(len(open_pins)))
            pin.close()
            twin.release(digest)
        else:
            digest = draw.choice(list(sizes))
            pin = cache.acquire(digest, lambda digest=digest: weights(sizes[digest]))
            assert pin.weights.result().nbytes == sizes[digest]
            open_pins.append((digest, pin))
            twin.acquire(digest, sizes[digest])
        resident = cache.resident
        assert list(resident[: len(twin.idle)]) == twin.idle
        assert sorted(resident) == sorted(twin.pins)
        assert cache.nbytes == twin.nbytes


def test_many_threads_that_share_a_small_cache_each_hold_the_right_task_and_leave_no_bytes_behind():
    cache, budget = AdapterCache(budget_nbytes=200), 200

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(300):
            size = draw.randint(1, 30)
            with pinned(cache, f"task {size}", lambda size=size: weights(size)) as held:
                assert held.nbytes == size
                assert f"task {size}" in cache.resident

    with ThreadPoolExecutor(8) as workers:
        for done in [workers.submit(work, seed) for seed in range(8)]:
            done.result()
    assert cache.nbytes == sum(int(digest.split()[1]) for digest in cache.resident) <= budget


def test_ten_thousand_tasks_take_no_longer_to_find_or_to_drop_than_a_hundred():
    assert fastest_turn(10_000) < 10 * fastest_turn(100)


def fastest_turn(resident: int) -> float:
    """Fill a cache, then return the least time in seconds of loading a task and dropping another for it."""
    cache = AdapterCache(budget_nbytes=resident)
    pins = [cache.acquire(f"old {index}", lambda: weights(1)) for index in range(resident)]
    for pin in pins:
        pin.weights.result()
        pin.close()
    seconds = []
    for index in range(200):
        start = time.perf_counter()
        with closing(cache.acquire(f"new {index}", lambda: weights(1))) as pin:
            pin.weights.result()
        seconds.append(time.perf_counter() - start)
    assert len(cache.resident) == resident
    return min(seconds)


def test_what_a_load_raises_comes_to_all_who_wait_for_it():
    cache, asked = AdapterCache(budget_nbytes=100), threading.Event()

    def fail() -> TaskWeights:
        asked.wait()
        raise OSError("disk gone")

    waiting: list[Future[TaskWeights]] = [cache.acquire("a", fail).weights for _ in range(5)]
    asked.set()
    assert {str(future.exception()) for future in waiting} == {"disk gone"}
    use(cache, "a")
    assert cache.resident == ("a",)


def test_a_load_uses_one_core_and_no_other_thread_is_changed() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        cache, seen = AdapterCache(budget_nbytes=100), []

        def load() -> TaskWeights:
            seen.append(torch.get_num_threads())
            return weights(10)

        for digest in "abcdef":
            with pinned(cache, digest, load):
                pass
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
        assert (seen, torch.get_num_threads()) == ([1] * 6, 3)
    finally:
        torch.set_num_threads(before)
