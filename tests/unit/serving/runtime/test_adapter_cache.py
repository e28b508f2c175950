"""The pool: who stays in memory, who leaves, and who waits for whom."""

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
from store.errors import OverloadedError
from store.weights.forms import Forms, TaskWeights


def weights(nbytes: int) -> TaskWeights:
    """A task of exactly this many bytes."""
    return TaskWeights(1, Forms(), torch.zeros(nbytes, dtype=torch.uint8), torch.zeros(0), ("a", "b"))


@contextmanager
def leased(pool: AdapterCache, digest: str, load: Callable[[], TaskWeights]) -> Iterator[TaskWeights]:
    """The task once it is loaded; it stays resident while the block runs."""
    with closing(pool.take(digest, load)) as lease:
        yield lease.weights.result()


def use(pool: AdapterCache, digest: str, nbytes: int = 10) -> None:
    with leased(pool, digest, lambda: weights(nbytes)):
        pass


def test_the_least_recently_used_task_leaves_when_the_budget_is_passed():
    pool = AdapterCache(budget_nbytes=30)
    for digest in ("a", "b", "c", "a", "d"):
        use(pool, digest)
    assert pool.resident == ("c", "a", "d")
    assert (pool.nbytes, pool.loads) == (30, 4)


def test_a_task_in_use_stays_even_above_the_budget_and_leaves_after():
    pool = AdapterCache(budget_nbytes=15)
    with leased(pool, "a", lambda: weights(10)) as held:
        use(pool, "b")
        assert pool.resident == ("a",)
        assert held.nbytes == 10
    use(pool, "c")
    assert pool.resident == ("c",)


def test_however_many_ask_at_once_a_task_is_loaded_once():
    pool, loads, asked = AdapterCache(budget_nbytes=100), [], threading.Barrier(8)

    def load() -> TaskWeights:
        loads.append(threading.get_ident())
        return weights(10)

    def ask(_: int) -> int:
        asked.wait()
        with leased(pool, "a", load) as held:
            return id(held)

    with ThreadPoolExecutor(8) as workers:
        assert len(set(workers.map(ask, range(8)))) == 1
    assert len(loads) == 1


def test_a_load_that_fails_fails_its_request_and_the_next_one_tries_again():
    pool = AdapterCache(budget_nbytes=100)

    def fail() -> TaskWeights:
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"), leased(pool, "a", fail):
        pass
    assert pool.resident == ()
    use(pool, "a")
    assert pool.resident == ("a",)


def test_tasks_in_the_pool_are_used_while_every_loading_thread_waits_for_a_slow_disk():
    pool, disk = AdapterCache(budget_nbytes=100), threading.Event()
    use(pool, "hot")

    def load_slowly() -> TaskWeights:
        disk.wait()
        return weights(10)

    cold = [pool.take(f"cold {index}", load_slowly) for index in range(2 * LOADERS)]
    use(pool, "hot")
    assert not any(lease.weights.done() for lease in cold)
    disk.set()
    assert [lease.weights.result().nbytes for lease in cold] == [10] * len(cold)


def test_a_hold_that_is_given_up_before_the_task_is_loaded_leaves_it_to_the_others_and_to_the_budget():
    pool, disk = AdapterCache(budget_nbytes=10), threading.Event()

    def load() -> TaskWeights:
        disk.wait()
        return weights(10)

    first, second = pool.take("a", load), pool.take("a", load)
    assert not first.weights.cancel()
    first.close()
    first.close()
    disk.set()
    second.weights.result()
    use(pool, "b")
    assert pool.resident == ("a",)
    second.close()
    assert pool.resident == ("a",)
    use(pool, "b")
    assert pool.resident == ("b",)


def test_where_tasks_in_use_alone_pass_the_ceiling_another_is_refused_until_some_are_let_go():
    pool = AdapterCache(budget_nbytes=20)
    with ExitStack() as stack:
        for index in range(CEILING * 2):
            stack.enter_context(leased(pool, str(index), lambda: weights(10)))
        assert pool.nbytes == CEILING * 20
        with pytest.raises(OverloadedError, match="tasks in use take 40 bytes of memory, 40 are the most: try again"):
            use(pool, "one more")
        use(pool, "0")
    assert pool.nbytes == 20
    use(pool, "one more")
    assert pool.resident == ("0", "one more")


class PlainPool:
    """The slow twin: one list, last used last, searched and summed at every step."""

    def __init__(self, budget_nbytes: int) -> None:
        self.budget_nbytes = budget_nbytes
        self.held: list[tuple[str, int, int]] = []  # digest, bytes, leases

    def change(self, digest: str, nbytes: int, by: int) -> None:
        leases = sum(count for name, _, count in self.held if name == digest)
        self.held = [*(row for row in self.held if row[0] != digest), (digest, nbytes, leases + by)]
        while sum(size for _, size, _ in self.held) > self.budget_nbytes:
            idle = [row for row in self.held if row[2] == 0]
            if not idle:
                break
            self.held.remove(idle[0])

    @property
    def idle(self) -> list[str]:
        return [name for name, _, leases in self.held if leases == 0]


def test_any_order_of_taking_and_letting_go_leaves_what_a_plain_list_would():
    draw, pool, twin = random.Random(7), AdapterCache(budget_nbytes=300), PlainPool(300)
    sizes = {f"task {index}": draw.randint(1, 60) for index in range(40)}
    open_leases: list[tuple[str, Pin]] = []
    for _ in range(3000):
        if open_leases and draw.random() < 0.2 + 0.1 * len(open_leases):
            digest, lease = open_leases.pop(draw.randrange(len(open_leases)))
            lease.close()
            twin.change(digest, sizes[digest], -1)
        else:
            digest = draw.choice(list(sizes))
            lease = pool.take(digest, lambda digest=digest: weights(sizes[digest]))
            assert lease.weights.result().nbytes == sizes[digest]
            open_leases.append((digest, lease))
            twin.change(digest, sizes[digest], 1)
        resident = pool.resident
        assert list(resident[: len(twin.idle)]) == twin.idle
        assert sorted(resident) == sorted(name for name, _, _ in twin.held)
        assert pool.nbytes == sum(size for _, size, _ in twin.held)


def test_many_threads_that_share_a_small_pool_each_hold_the_right_task_and_leave_no_bytes_behind():
    pool, budget = AdapterCache(budget_nbytes=200), 200

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(300):
            size = draw.randint(1, 30)
            with leased(pool, f"task {size}", lambda size=size: weights(size)) as held:
                assert held.nbytes == size
                assert f"task {size}" in pool.resident

    with ThreadPoolExecutor(8) as workers:
        for done in [workers.submit(work, seed) for seed in range(8)]:
            done.result()
    assert pool.nbytes == sum(int(digest.split()[1]) for digest in pool.resident) <= budget


def test_ten_thousand_tasks_take_no_longer_to_find_or_to_drop_than_a_hundred():
    assert fastest_turn(10_000) < 10 * fastest_turn(100)


def fastest_turn(resident: int) -> float:
    """Fill a pool, then return the least time in seconds of loading a task and dropping another for it."""
    pool = AdapterCache(budget_nbytes=resident)
    leases = [pool.take(f"old {index}", lambda: weights(1)) for index in range(resident)]
    for lease in leases:
        lease.weights.result()
        lease.close()
    seconds = []
    for index in range(200):
        start = time.perf_counter()
        with closing(pool.take(f"new {index}", lambda: weights(1))) as lease:
            lease.weights.result()
        seconds.append(time.perf_counter() - start)
    assert len(pool.resident) == resident
    return min(seconds)


def test_what_a_load_raises_comes_to_all_who_wait_for_it():
    pool, asked = AdapterCache(budget_nbytes=100), threading.Event()

    def fail() -> TaskWeights:
        asked.wait()
        raise OSError("disk gone")

    waiting: list[Future[TaskWeights]] = [pool.take("a", fail).weights for _ in range(5)]
    asked.set()
    assert {str(future.exception()) for future in waiting} == {"disk gone"}
    use(pool, "a")
    assert pool.resident == ("a",)
