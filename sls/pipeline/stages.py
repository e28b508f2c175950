"""What an interrupted fit has done already, kept beside its result until the fit is done."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from store.backends.atomic_write import replace_file
from store.errors import FormatError
from store.records.decoding import decode
from store.records.evidence import PruneIndex

FOLDER = "unfinished"


class Stages:
    """Where one fit keeps its trainings and its scores: `out/unfinished/KEY`.

    The key is a digest of all that the fit is made of. What another fit left in the same place is removed.
    """

    def __init__(self, out: Path, made_of: Mapping[str, object]) -> None:
        self.root = out / FOLDER
        self.folder = self.root / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
        for other in self.root.glob("*"):
            if other != self.folder:
                shutil.rmtree(other)
        self.folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, name: str) -> Path:
        """Return where the training of this name keeps its epochs; one that is finished is read back from there."""
        return self.folder / f"{name}.safetensors"

    def index(self, make: Callable[[], PruneIndex]) -> PruneIndex:
        """Read the scores back, or make them where there are none that can be read."""
        path = self.folder / "index.json"
        with suppress(FileNotFoundError, FormatError):
            return decode(PruneIndex, path.read_bytes(), str(path), newest=0)
        made = make()
        replace_file(path, json.dumps(asdict(made), allow_nan=False).encode())
        return made

    def clear(self) -> None:
        """Remove all of it: the fit is done."""
        shutil.rmtree(self.root)
