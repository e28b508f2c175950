"""Where a request comes from, and when its image reached each stage on the way to an answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any


class RequestTimes:
    """Seconds of `time.perf_counter`, None for a stage that was not reached; each is written by who takes it there.

    `queued` says that the image is decoded, the weights are in memory, and the engine has the rest to do.

    `engine_s` is its part of the engine's calls: of each call, the share of its row-blocks.
    """

    __slots__ = ("decoded", "engine_s", "finished", "loaded", "queued", "started", "submitted")

    def __init__(self) -> None:
        self.submitted = time.perf_counter()
        self.decoded: float | None = None
        self.loaded: float | None = None
        self.started: float | None = None
        self.finished: float | None = None
        self.engine_s = 0.0
        self.queued = False

    def watch(self, pixels: Future[Any], weights: Sequence[Future[Any]]) -> None:
        """Note when the pixels are there, and the last of the weights that are not in memory."""
        pixels.add_done_callback(self._note_pixels)
        for future in weights:
            if not future.done():
                future.add_done_callback(self._note_weights)

    def start(self) -> None:
        """Note that the request's batch begins."""
        self.started = time.perf_counter()

    def finish(self) -> None:
        """Note that the last of its answers is there."""
        self.finished = time.perf_counter()

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage that is over: decoding and loading go on side by side, before the queue."""
        stages = {}
        if self.decoded is not None:
            stages["decode"] = self.decoded - self.submitted
        if self.loaded is not None:
            stages["load"] = self.loaded - self.submitted
        if self.started is not None:
            stages["queue"] = self.started - max(self.submitted, self.decoded or 0.0, self.loaded or 0.0)
            if self.finished is not None:
                stages["blocks"] = self.finished - self.started
        return stages

    def _note_pixels(self, _: Future[Any]) -> None:
        self.decoded = time.perf_counter()

    def _note_weights(self, _: Future[Any]) -> None:
        self.loaded = time.perf_counter()


@dataclass(frozen=True)
class Origin:
    """Whose request it is and until when: a time of `time.monotonic`; its times are noted where it has them.

    `tenant` is whose share of decoding and of the engine it takes.
    """

    deadline: float | None = None
    tenant: str | None = None
    times: RequestTimes | None = None
