from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from serving.pool import Pool
from store.forms import Forms, TaskWeights


def weights(nbytes: int) -> TaskWeights:
    """A task of exactly this many bytes."""
    return TaskWeights(1, Forms(), torch.zeros(nbytes, dtype=torch.uint8), torch.zeros(0), ("a", "b"))


def use(pool: Pool, digest: str, nbytes: int = 10) -> None:
    with pool.lease(digest, lambda: weights(nbytes)):
        pass


def test_the_least_recently_used_task_leaves_when_the_budget_is_passed():
    pool = Pool(budget_nbytes=30)
    for digest in ("a", "b", "c", "a", "d"):
        use(pool, digest)
    assert pool.resident == ("c", "a", "d")
    assert pool.nbytes == 30


def test_a_task_in_use_stays_even_above_the_budget_and_leaves_after():
    pool = Pool(budget_nbytes=15)
    with pool.lease("a", lambda: weights(10)) as held:
        use(pool, "b")
        assert pool.resident == ("a",)
        assert held.nbytes == 10
    use(pool, "c")
    assert pool.resident == ("c",)


def test_however_many_ask_at_once_a_task_is_loaded_once():
    pool, loads, asked = Pool(budget_nbytes=100), [], threading.Barrier(8)

    def load() -> TaskWeights:
        loads.append(threading.get_ident())
        return weights(10)

    def ask(_: int) -> int:
        asked.wait()
        with pool.lease("a", load) as held:
            return id(held)

    with ThreadPoolExecutor(8) as workers:
        assert len(set(workers.map(ask, range(8)))) == 1
    assert len(loads) == 1


def test_a_load_that_fails_fails_its_request_and_the_next_one_tries_again():
    pool = Pool(budget_nbytes=100)

    def fail() -> TaskWeights:
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"), pool.lease("a", fail):
        pass
    assert pool.resident == ()
    use(pool, "a")
    assert pool.resident == ("a",)
