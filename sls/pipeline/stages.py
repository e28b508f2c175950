"""The finished steps of an interrupted fit, kept in its output folder until the fit is done."""

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
    """Where one fit keeps its training checkpoints and its scores: `out/unfinished/KEY`.

    KEY is a digest of all inputs of the fit. Files of another fit in `out/unfinished` are removed.
    """

    def __init__(self, out: Path, inputs: Mapping[str, object]) -> None:
        self.root = out / FOLDER
        self.folder = self.root / hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
        for other in self.root.glob("*"):
            if other != self.folder:
                shutil.rmtree(other)
        self.folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, name: str) -> Path:
        """Return the path of this training's checkpoint, which also holds the result of a finished training."""
        return self.folder / f"{name}.safetensors"

    def index(self, compute: Callable[[], PruneIndex]) -> PruneIndex:
        """Read the prune index, or compute and write it if there is none that can be read."""
        path = self.folder / "index.json"
        with suppress(FileNotFoundError, FormatError):
            return decode(PruneIndex, path.read_bytes(), str(path), newest=0)
        index = compute()
        replace_file(path, json.dumps(asdict(index), allow_nan=False).encode())
        return index

    def clear(self) -> None:
        """Remove all files: the fit is done."""
        shutil.rmtree(self.root)
