"""Bytes named by their digest, in a folder."""

from __future__ import annotations

from pathlib import Path

from store.errors import IntegrityError
from store.files import Layout, make_folder, replace_durably, sync_folder
from store.records import Blob

REMEDY = "restore the file from a copy of the store, or publish again what it came from"


class FolderBlobs:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, blob: Blob) -> Path:
        return self._layout.blob(blob.sha256)

    def put(self, data: bytes) -> Blob:
        """Keep the bytes durably and return their name; a damaged file of that name is mended."""
        blob = Blob.of(data)
        path = self.path(blob)
        if self._holds(path, data):
            # Whoever linked it may not have synced the folder yet, and our caller is about to depend on it.
            sync_folder(path.parent)
            return blob
        make_folder(path.parent)
        replace_durably(path, data)
        return blob

    def get(self, blob: Blob) -> bytes:
        """Return the bytes, or raise `IntegrityError` where they are not those that the name promises."""
        path = self.path(blob)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{path} is missing: {REMEDY}") from None
        if len(data) != blob.nbytes:
            raise IntegrityError(f"{path} has {len(data)} bytes, expected {blob.nbytes}: {REMEDY}")
        found = Blob.of(data)
        if found != blob:
            raise IntegrityError(f"{path} has sha256 {found.sha256[:16]}…, not the one that names it: {REMEDY}")
        return data

    def prefix(self, blob: Blob, nbytes: int) -> bytes:
        """Return the first bytes, unchecked: for counting, not for computing."""
        try:
            with self.path(blob).open("rb") as file:
                return file.read(nbytes)
        except FileNotFoundError:
            raise IntegrityError(f"{self.path(blob)} is missing: {REMEDY}") from None

    @staticmethod
    def _holds(path: Path, data: bytes) -> bool:
        try:
            return path.stat().st_size == len(data) and path.read_bytes() == data
        except FileNotFoundError:
            return False
