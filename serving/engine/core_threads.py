"""One thread for each core: the rows of a batch are divided among them, and meet again after each block."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread

import torch
from torch import Tensor

Work = Callable[[], Tensor]
Reply = SimpleQueue[tuple[int, Tensor | BaseException]]
Queue = SimpleQueue[tuple[int, Work, Reply] | None]

ENOUGH = 50_000  # numbers in a thread's rows below which a block costs less on all cores together
UNEVEN = 1.2  # times the mean: the rows that one thread may have at most


class CoreThreads:
    """Threads whose tensor operations use one core each.

    What a task adds to the result of a product is added where that result is: in the cache of the core that made it.
    An operation that all cores share finds half of it in another's cache, and waits for all of them. With `always`,
    all work runs in these threads, so that the number of cores in an operation does not depend on the batch.
    """

    def __init__(self, count: int, *, always: bool = False, enough: int = ENOUGH) -> None:
        self._always = always
        self._enough = enough
        self._queues: list[Queue] = [SimpleQueue() for _ in range(count)] if count > 1 else []
        _start(self._queues)
        weakref.finalize(self, _stop, self._queues)

    def split(self, x: Tensor) -> list[Tensor]:
        """Return x (n, …) in as many parts as there are threads, or in one where its rows are better left together."""
        threads, rows = len(self._queues), len(x)
        if threads == 0 or rows == 1:
            return [x]
        most = -(-rows // threads)
        if not self._always and (most * threads > UNEVEN * rows or x.numel() < self._enough * threads):
            return [x]
        return [part for part in torch.tensor_split(x, threads) if len(part)]

    def run(self, works: Sequence[Work]) -> list[Tensor]:
        """Return the result of each work, all run at once; a single work runs in the calling thread, on all cores."""
        if not self._queues or (len(works) == 1 and not self._always):
            return [work() for work in works]
        replies: Reply = SimpleQueue()
        for index, work in enumerate(works):
            self._queues[index].put((index, work, replies))
        results = dict(replies.get() for _ in works)
        for result in results.values():
            if isinstance(result, BaseException):
                raise result
        return [result for _, result in sorted(results.items()) if isinstance(result, Tensor)]


def _start(queues: Sequence[Queue]) -> None:
    """Start a thread for each queue; torch keeps the number of threads of the thread that sets it."""
    threads, ready = torch.get_num_threads(), SimpleQueue[None]()
    for queue in queues:
        Thread(target=_serve, args=(queue, ready), name="onetrunk core", daemon=True).start()
        ready.get()
    torch.set_num_threads(threads)  # threads that start later take this number, too


def _serve(queue: Queue, ready: SimpleQueue[None]) -> None:
    torch.get_num_threads()  # torch sets a thread's number at its first query, which would undo the next line
    torch.set_num_threads(1)
    ready.put(None)
    with torch.inference_mode():
        while (item := queue.get()) is not None:
            index, work, replies = item
            del item
            try:
                replies.put((index, work()))
            except BaseException as error:
                replies.put((index, error))
            del work, replies


def _stop(queues: Sequence[Queue]) -> None:
    for queue in queues:
        queue.put(None)
