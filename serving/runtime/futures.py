"""What `concurrent.futures` lacks: several futures at a time, without a thread that waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


def call_when_all_done(futures: Sequence[Future[Any]], act: Callable[[], object]) -> None:
    """Call once all are done: at once where they are, else on the thread that ends the last of them."""
    lock, left = Lock(), len(futures)

    def count(_: Future[Any]) -> None:
        nonlocal left
        with lock:
            left -= 1
            is_last = left == 0
        if is_last:
            act()

    for future in futures:
        future.add_done_callback(count)


def fail_all(futures: Sequence[Future[T]], error: BaseException) -> None:
    """Set the error on all that are not cancelled; none of them may be done."""
    for future in futures:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)


def done(result: T) -> Future[T]:
    """Return a future that has this result."""
    future: Future[T] = Future()
    future.set_result(result)
    return future
