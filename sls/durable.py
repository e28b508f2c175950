"""Files that survive a power cut, or are as they were."""

from __future__ import annotations

import os
from pathlib import Path

from store.folder import sync_folder, writing


def replace_file(path: Path, data: bytes) -> None:
    """Put these bytes in the file's place, durably, or leave it as it is; raise `StorageError` where that fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)
