"""What a process does for parts of many images: decode them, run the tasks, and write their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from onetrunk.many.prediction_rows import Row, failed_row, predicted_row
from onetrunk.stores import open_store
from serving.cluster.task_plan import Payload, Report, Work
from serving.runtime.device import set_cpu_threads
from serving.runtime.offline import OfflineEngine, Pixels
from sls.data.unlabelled import ImagePart
from store.backends.atomic_write import replace_file
from store.errors import DataError, ImageError
from store.malloc import keep_freed_memory

Decoded = tuple[str, "Pixels | str"]
"""An image's name, and its pixels or why there are none."""
BLOCKS = "row_blocks"
"""The file that says how many blocks run for an image, which only an engine knows."""


@dataclass(frozen=True)
class ScoreSettings:
    """What all parts of a run share; `versions` are the refs as they were written, and as TASK:NUMBER."""

    store: str
    catalogue: str | None
    versions: Mapping[str, str]
    folder: str
    top: int
    logits: bool
    dtype: str
    device: str
    threads: int | None


class Scorer:
    """An engine that scores one part after the other."""

    def __init__(self, settings: ScoreSettings) -> None:
        self._settings = settings
        with open_store(settings.store, catalogue=settings.catalogue) as store:
            versions = [store.resolve(ref) for ref in settings.versions.values()]
            self._engine = OfflineEngine(store, versions, dtype=settings.dtype, device=settings.device)
        self._refs = tuple(settings.versions)

    def __call__(self, payload: Payload, _report: Report) -> Payload:
        part = ImagePart.from_dict(cast(Mapping[str, Any], payload["part"]))
        rows = [json.dumps(row) for row in self._rows(part)]
        folder = Path(self._settings.folder)
        replace_file(folder / BLOCKS, str(self._engine.row_blocks).encode())
        replace_file(folder / cast(str, payload["name"]), "".join(f"{row}\n" for row in rows).encode())
        return {"images": len(rows)}

    def _rows(self, part: ImagePart) -> Iterator[Row]:
        """Decode a batch while the engine runs the one before it."""
        images = part.images()
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
            coming = decoder.submit(self._decode, images)
            while batch := coming.result():
                coming = decoder.submit(self._decode, images)
                yield from self._predict(batch)

    def _decode(self, images: Iterator[tuple[str, bytes | DataError]]) -> list[Decoded]:
        return [(name, self._pixels(data)) for name, data in islice(images, self._engine.images)]

    def _pixels(self, data: bytes | DataError) -> Pixels | str:
        if isinstance(data, DataError):
            return str(data)
        try:
            return self._engine.decode(data)
        except ImageError as error:
            return str(error)

    def _predict(self, batch: Sequence[Decoded]) -> Iterator[Row]:
        pixels = [image for _, image in batch if not isinstance(image, str)]
        answers = iter(self._engine.predict(pixels) if pixels else ())
        settings = self._settings
        for name, image in batch:
            if isinstance(image, str):
                yield failed_row(self._refs, name, image, top=settings.top, logits=settings.logits)
            else:
                yield predicted_row(self._refs, name, next(answers), top=settings.top, logits=settings.logits)


def make_scorer(settings: Payload) -> Work:
    """Prepare this process to score, and return what does the parts."""
    keep_freed_memory()
    made = ScoreSettings(**cast(Mapping[str, Any], settings))
    if made.threads is not None:
        set_cpu_threads(made.threads)
    return Scorer(made)
