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

ENOUGH = 50_000  # numbers of a lane's rows below which a block costs less on all cores together
UNEVEN = 1.2  # how much longer than the mean the longest lane may take


class CoreThreads:
    """Threads whose tensor operations use one core each.

    What a task adds to the result of a product is added where that result is: in the cache of the core that made it.
    An operation that all cores share finds half of it in another's cache, and waits for all of them. `always` runs all
    work in a lane, so that how many cores take part in an operation does not depend on the batch.
    """

    def __init__(self, count: int, *, always: bool = False, enough: int = ENOUGH) -> None:
        self._always = always
        self._enough = enough
        self._queues: list[Queue] = [SimpleQueue() for _ in range(count)] if count > 1 else []
        _start(self._queues)
        weakref.finalize(self, _stop, self._queues)

    def split(self, x: Tensor) -> list[Tensor]:
        """Return x (n, …) in as many parts as there are lanes, or in one where its rows are better left together."""
        lanes, rows = len(self._queues), len(x)
        if lanes == 0 or rows == 1:
            return [x]
        longest = -(-rows // lanes)
        if not self._always and (longest * lanes > UNEVEN * rows or x.numel() < self._enough * lanes):
            return [x]
        return [part for part in torch.tensor_split(x, lanes) if len(part)]

    def run(self, works: Sequence[Work]) -> list[Tensor]:
        """Return what each gives, all at once; a work alone runs in the calling thread, on all cores."""
        if not self._queues or (len(works) == 1 and not self._always):
            return [work() for work in works]
        replies: Reply = SimpleQueue()
        for index, work in enumerate(works):
            self._queues[index].put((index, work, replies))
        found = dict(replies.get() for _ in works)
        for each in found.values():
            if isinstance(each, BaseException):
                raise each
        return [each for _, each in sorted(found.items()) if isinstance(each, Tensor)]


def _start(queues: Sequence[Queue]) -> None:
    """Start a thread for each queue; torch keeps the number of threads of the one that asks for it."""
    threads, ready = torch.get_num_threads(), SimpleQueue[None]()
    for queue in queues:
        Thread(target=_serve, args=(queue, ready), name="onetrunk lane", daemon=True).start()
        ready.get()
    torch.set_num_threads(threads)  # what threads that begin later take, too


def _serve(queue: Queue, ready: SimpleQueue[None]) -> None:
    torch.get_num_threads()  # torch sets a thread's number when it first asks: it would undo what comes next
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
