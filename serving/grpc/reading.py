"""How many messages may be on their way: gRPC holds each until it is whole, and its length is not known before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from serving.http.errors import no_memory
from serving.http.limits import HttpLimits

PARTS = 4  # of the largest message that one on its way takes, on average


class Reading:
    """Used by the event loop alone; one caller has half of the places at most."""

    def __init__(self, limits: HttpLimits) -> None:
        self._most = PARTS * max(1, limits.bodies_nbytes // limits.image_nbytes)
        self._of_callers: Counter[str] = Counter()

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """Count a message, or a stream of them, until the block ends; raise where too many are on their way."""
        if self._of_callers.total() >= self._most or self._of_callers[caller] >= self._most // 2:
            raise no_memory(f"{self._of_callers.total()} messages and streams are on their way: try again later")
        self._of_callers[caller] += 1
        try:
            yield
        finally:
            self._of_callers[caller] -= 1
            if not self._of_callers[caller]:
                del self._of_callers[caller]
