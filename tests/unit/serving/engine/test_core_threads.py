from __future__ import annotations

import gc
import threading

import pytest
import torch

from serving.engine.core_threads import ENOUGH, CoreThreads


def core_threads_alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "onetrunk core"]


def where() -> torch.Tensor:
    return torch.tensor([threading.get_ident(), torch.get_num_threads(), int(torch.is_inference_mode_enabled())])


@pytest.mark.parametrize(
    ("threads", "rows", "width", "sizes"),
    [
        (2, 8, ENOUGH, [4, 4]),
        (2, 2, ENOUGH, [1, 1]),
        (2, 1, ENOUGH, [1]),
        (2, 3, ENOUGH, [3]),  # a thread with two of three rows takes a third longer than the mean
        (2, 5, ENOUGH, [3, 2]),
        (2, 8, ENOUGH // 4 - 1, [8]),
        (2, 8, ENOUGH // 4, [4, 4]),
        (4, 3, ENOUGH, [3]),
        (1, 8, ENOUGH, [8]),
    ],
)
def test_rows_are_divided_where_there_is_enough_to_do_and_each_thread_gets_as_much(threads, rows, width, sizes):
    x = torch.arange(rows)[:, None].expand(rows, width)
    parts = CoreThreads(threads).split(x)
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(parts), x)


def test_with_always_every_batch_of_two_rows_or_more_is_divided():
    assert [[len(part) for part in CoreThreads(3, always=True).split(torch.zeros(n, 1))] for n in (1, 2, 5)] == [
        [1],
        [1, 1],
        [2, 2, 1],
    ]


def test_a_core_thread_uses_one_core_and_leaves_all_to_the_calling_thread():
    cores = torch.get_num_threads()
    threads = CoreThreads(2)
    results = threads.run([where, where])
    assert torch.get_num_threads() == cores
    assert len({int(result[0]) for result in results} | {threading.get_ident()}) == 3
    assert [result[1:].tolist() for result in results] == [[1, True]] * 2
    (alone,) = threads.run([where])
    assert alone.tolist() == [threading.get_ident(), cores, False]
    (pinned,) = CoreThreads(2, always=True).run([where])
    assert pinned[1:].tolist() == [1, True]


def test_threads_that_begin_later_take_all_cores():
    CoreThreads(2)
    numbers: list[int] = []
    thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert numbers == [torch.get_num_threads()]


def test_results_come_in_the_order_of_the_works_however_long_each_takes():
    slow = threading.Event()

    def wait() -> torch.Tensor:
        assert slow.wait(10)
        return torch.tensor(0)

    def go() -> torch.Tensor:
        slow.set()
        return torch.tensor(1)

    assert [int(result) for result in CoreThreads(2).run([wait, go])] == [0, 1]


def test_what_a_core_thread_raises_is_raised_and_the_thread_goes_on():
    threads = CoreThreads(2)

    def fail() -> torch.Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        threads.run([where, fail])
    assert len(threads.run([where, where])) == 2


def test_the_threads_end_with_their_owner():
    gc.collect()
    before = set(core_threads_alive())
    threads = CoreThreads(3)
    own = set(core_threads_alive()) - before
    assert len(own) == 3
    del threads
    gc.collect()
    for thread in own:
        thread.join(10)
        assert not thread.is_alive()
