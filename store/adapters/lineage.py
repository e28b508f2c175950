"""What only the publisher of a task knows, added to its card: the code commit, and the version it was made from."""

from __future__ import annotations

import re
from dataclasses import replace

from store.adapters.checkpoint import Checkpoint
from store.errors import InvalidSettingError
from store.records.backbone import BackboneRecord
from store.records.evidence import Lineage, PruneIndex
from store.records.manifest import MANIFEST_FORMAT, Card
from store.records.version import Version

COMMIT = re.compile(r"[0-9a-f]{7,64}(-dirty)?")


def with_lineage(
    checkpoint: Checkpoint,
    record: BackboneRecord,
    *,
    depth: int | None,
    parent: Version | None,
    code_commit: str | None,
) -> Checkpoint:
    """Return the checkpoint with these in its card; None leaves what the card has.

    A folder without a card gets the one that `publish` would imply: the backbone, and the depth as given.
    """
    if code_commit is not None and not COMMIT.fullmatch(code_commit):
        raise InvalidSettingError(
            f"code commit {code_commit[:80]!r} is not a valid commit: give what `git rev-parse HEAD` prints"
        )
    if code_commit is None and parent is None:
        return checkpoint
    index = PruneIndex(depth or record.blocks, record.blocks, criterion="given")
    card = checkpoint.card or Card(record.id.fingerprint, index)
    known = card.lineage or Lineage()
    lineage = replace(
        known,
        code_commit=code_commit or known.code_commit,
        parent=known.parent if parent is None else f"{parent.task}@sha256:{parent.digest}",
    )
    return replace(checkpoint, card=replace(card, lineage=lineage, format=MANIFEST_FORMAT))
