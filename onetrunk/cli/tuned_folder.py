"""The tuned task that a command scores: a version of the store, or a folder."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from onetrunk.cli.option_groups import StoreOptions

if TYPE_CHECKING:
    from store.weights.backbones import Backbone


@contextlib.contextmanager
def opened(options: StoreOptions, target: str, backbone: str | None) -> Iterator[tuple[Path, Backbone]]:
    """Give the folder of a published REF, or the one that is named, with the backbone that it was tuned on."""
    from sls.adapters.task_folder import backbone_of
    from store.weights.backbones import open_backbone

    with options.open() as store, tempfile.TemporaryDirectory() as scratch:
        folder = Path(target)
        if not folder.is_dir():
            folder = store.export(target, Path(scratch) / "task")
        yield folder, open_backbone(store, store.backbone(backbone or backbone_of(folder)))
