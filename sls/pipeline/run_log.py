"""What a run reports while it goes on, kept with the seconds of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sls.progress import Progress, ProgressCallback


class Log:
    """Pass progress on, and keep it with the seconds of each stage."""

    def __init__(self, report: ProgressCallback) -> None:
        self.report, self.curve, self.seconds = report, list[Progress](), dict[str, float]()

    def __call__(self, progress: Progress) -> None:
        self.curve.append(progress)
        self.report(progress)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - began
