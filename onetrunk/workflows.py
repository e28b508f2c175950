"""What the command line and scripts share: whole jobs that need sls and store, or serving and store, together."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from onetrunk.stores import open_store
from store.errors import StoreNotFoundError

if TYPE_CHECKING:
    from store.registry.store import Store, Version
    from store.weights.backbones import Backbone


def borrow_backbone(root: str, name: str, catalogue: str | None) -> Backbone:
    """Open a backbone of the store, or load it by name; the store, where there is one, stays as it is."""
    from store.weights.backbones import load_backbone, open_backbone

    with contextlib.suppress(StoreNotFoundError), open_store(root, catalogue=catalogue) as opened:
        for record in opened.backbones():
            if name in (record.name, record.id.fingerprint):
                return open_backbone(opened, record)
    return load_backbone(name)


def adopt_backbone(store: Store, name: str) -> Backbone:
    """Open a backbone of the store; one that it has not yet is loaded by name and kept."""
    from store.weights.backbones import encode, load_backbone, open_backbone

    known = [record for record in store.backbones() if name in (record.name, record.id.fingerprint)]
    if known:
        return open_backbone(store, known[0])
    backbone = load_backbone(name)
    store.add_backbone(backbone.record, encode(backbone))
    return backbone


def publish_folder(
    opened: Store,
    task: str,
    folder: Path,
    *,
    backbone: str | None = None,
    depth: int | None = None,
    aliases: tuple[str, ...] = (),
    force: bool = False,
    parent: str | None = None,
    code_commit: str | None = None,
) -> Version:
    """Publish the folder, with what is known of its making beside what it says."""
    from store.adapters.checkpoint import read_checkpoint
    from store.adapters.lineage import with_lineage
    from store.registry.publish import PublishOptions

    checkpoint = read_checkpoint(folder)
    made_from = None if parent is None else opened.resolve(parent)
    name = backbone or (checkpoint.card.backbone if checkpoint.card else None)
    if name is not None and (made_from or code_commit):
        record = opened.backbone(name)
        checkpoint = with_lineage(checkpoint, record, depth=depth, parent=made_from, code_commit=code_commit)
    options = PublishOptions(backbone=backbone, depth=depth, aliases=aliases, force=force)
    return opened.publish_checkpoint(task, checkpoint, where=str(folder), options=options)
