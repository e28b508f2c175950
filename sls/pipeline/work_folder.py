"""The folder in which a fit works: it stays where something fails, with a note of what it holds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sls.pipeline.stages import FOLDER
from store.adapters.checkpoint import CARD


@contextmanager
def work_folder(out: str | Path | None) -> Iterator[Path]:
    """Give the folder of a fit, `out` or a temporary one, which goes at the end.

    Where something fails once an epoch is finished, it stays, and a note on the error says what it holds.
    """
    folder = Path(out or tempfile.mkdtemp(prefix="onetrunk-"))
    card = folder / "cut" / CARD
    before = _changed_at(card)
    try:
        yield folder
    except BaseException as error:
        if _changed_at(card) != before:
            error.add_note(
                f"the tuned task is kept in {card.parent}: publish it with `publish_folder(store, task, folder)`"
            )
        elif any(folder.glob(f"{FOLDER}/*/*")):
            error.add_note(
                f"what was tuned so far is kept in {folder}: go on with the same call and this folder, `out=`"
            )
        elif out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if out is None:
        shutil.rmtree(folder, ignore_errors=True)


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
