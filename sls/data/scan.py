"""One look at every image before anything is tuned: that it can be decoded, and what tells it from the others."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image

from sls.data.dataset import Split
from sls.data.left_out import SHOWN, listed
from sls.progress import Progress, ProgressCallback, ignore_progress
from store.errors import DataError

SIDE = 16
"""Of the thumbnail by which near duplicates are found."""
CHUNK = 256
QUIET_S = 1.0  # a scan that is shorter reports nothing


@dataclass(frozen=True)
class ImageFacts:
    """The SHA-256 of an image's upright RGB pixels and size, its size, and a grey thumbnail of SIDE x SIDE bytes."""

    digest: bytes
    size: tuple[int, int]
    thumbnail: bytes = field(repr=False)


class Scan:
    """The facts of images that were looked at once; `progress` gets the stage "scan"."""

    def __init__(self, progress: ProgressCallback = ignore_progress) -> None:
        self._progress = progress
        self._facts: dict[int, ImageFacts] = {}
        self._kept: list[object] = []  # whose identities are the keys

    def facts(self, split: Split) -> list[ImageFacts]:
        """Return the facts of each image; raise `DataError` that names those that cannot be decoded."""
        self.look_at([split])
        return [self._facts[id(image)] for image in split.images]

    def look_at(self, splits: Sequence[Split]) -> None:
        """Decode every image that was not decoded yet, on all cores."""
        jobs = [(s, i) for s in splits for i, image in enumerate(s.images) if id(image) not in self._facts]
        failed: list[str] = []
        for (split, index), facts in zip(jobs, self._decode(jobs), strict=True):
            if isinstance(facts, DataError):
                failed.append(str(facts) if not failed else split.place(index))
                continue
            self._facts[id(split.images[index])] = facts
            self._kept.append(split.images[index])
        if failed:
            first, *others = failed
            more = f" ({len(others):,} more: {listed(others[:SHOWN], len(others))})" if others else ""
            raise DataError(first + more)

    def _decode(self, jobs: Sequence[tuple[Split, int]]) -> Iterator[ImageFacts | DataError]:
        began = told = time.monotonic()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for start in range(0, len(jobs), CHUNK):
                yield from pool.map(_facts_of, jobs[start : start + CHUNK])
                now, done = time.monotonic(), min(start + CHUNK, len(jobs))
                if now - began > QUIET_S and (now - told > QUIET_S or done == len(jobs)):
                    told = now
                    self._progress(Progress("scan", done, len(jobs), (now - began) / done * (len(jobs) - done)))


def _facts_of(job: tuple[Split, int]) -> ImageFacts | DataError:
    split, index = job
    try:
        image = split.image(index)
    except DataError as error:
        return error
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(image.tobytes())
    thumbnail = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return ImageFacts(digest.digest(), image.size, thumbnail.tobytes())
