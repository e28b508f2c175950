"""Our store on SQLite: the arguments are `catalogue` or `publish`, its root, and a task's folder."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from support.concurrency_operations import vary

from benchmarks.registry.writers.loop import answer
from store.adapters.manifests import entry_of
from store.records.blob import Blob
from store.registry.store import Store


def catalogue(store: Store, folder: Path, name: str) -> Callable[[str], int]:
    """Register manifests like the template's, each with labels of its own; the blobs that they name are not written."""
    del folder
    template = store.resolve("template").manifest
    count = itertools.count()

    def register(task: str) -> int:
        labels = Blob.of(f"{name} {next(count)}".encode())
        manifest = replace(template, task=task, head=replace(template.head, labels=labels))
        entry = entry_of(manifest, Blob.of(manifest.to_json()))
        return store.catalogue.publish(task, entry, aliases=("latest",)).version

    return register


def publish(store: Store, folder: Path, name: str) -> Callable[[str], int]:
    """Publish the folder with an adapter, a head and labels of its own each time: with the manifest, four files."""
    template = store.resolve("template").manifest
    own = Path(shutil.copytree(folder, Path(tempfile.mkdtemp(dir=folder.parent)) / "folder"))
    count = itertools.count()

    def register(task: str) -> int:
        changed = vary(own, f"{name}-{next(count)}")
        return store.publish(task, changed, backbone=template.backbone, depth=template.depth).number

    return register


KINDS = {"catalogue": catalogue, "publish": publish}


def main() -> None:
    kind, root, folder = sys.argv[1:]
    with Store.open(root, actor=f"writer-{os.getpid()}") as store:
        answer(KINDS[kind](store, Path(folder), str(os.getpid())))


if __name__ == "__main__":
    main()
