"""A record of a run: the progress of its steps and the seconds of its stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sls.progress import Progress, ProgressCallback


class RunLog:
    """Record each step in `curve` and pass it to `progress`; record the seconds of each stage."""

    def __init__(self, progress: ProgressCallback) -> None:
        self.progress, self.curve, self.seconds = progress, list[Progress](), dict[str, float]()

    def __call__(self, step: Progress) -> None:
        self.curve.append(step)
        self.progress(step)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - began
