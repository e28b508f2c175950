"""The calls of a folder backend to which all others come down, each alone, so that no later sync covers for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from store.backends.blobs import Blobs
from store.backends.layout import blob_key
from store.backends.local import LocalBackend
from store.records.blob import Blob
from support.crash_subjects import Acknowledge

OLD, NEW = b"old" * 300, b"new" * 300
KEY, ASIDE = blob_key(Blob.of(NEW).sha256), "quarantine/aside"

CALLS: dict[str, Callable[[LocalBackend], object]] = {
    "put": lambda backend: backend.put(KEY, NEW),
    "replace": lambda backend: backend.put(KEY, NEW),
    "create": lambda backend: backend.create(KEY, NEW),
    "put blob": lambda backend: Blobs(backend).put(NEW),
    "delete": lambda backend: backend.delete([KEY]),
    "move": lambda backend: backend.move(KEY, ASIDE),
}
HELD = {"replace": OLD, "delete": OLD, "move": OLD}
LEFT = {"delete": (None, None), "move": (None, OLD)}


@dataclass(frozen=True)
class BackendCall:
    """One call of a folder backend; `template` is the folder before it."""

    name: str
    template: Path

    def run(self, root: Path, acknowledge: Acknowledge) -> None:
        CALLS[self.name](LocalBackend(root))
        acknowledge()

    def problems(self, root: Path, *, acknowledged: bool) -> Iterator[str]:
        before, after = (HELD.get(self.name), None), LEFT.get(self.name, (NEW, None))
        contents = (_read(root, KEY), _read(root, ASIDE))
        if contents not in ((after,) if acknowledged else (before, after)):
            yield f"the keys hold {contents}"


def prepare_call(name: str, folder: Path) -> BackendCall:
    template = folder / "before" / "store"
    template.parent.mkdir(parents=True)
    if name in HELD:
        LocalBackend(template).put(KEY, HELD[name])
    return BackendCall(name, template)


def _read(root: Path, key: str) -> bytes | None:
    try:
        return LocalBackend(root).read(key)
    except FileNotFoundError:
        return None
