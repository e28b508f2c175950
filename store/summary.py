"""One version as a listing shows it: for the command line, for the server, for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.rows import Listed
    from store.version import Version


def summarise(version: Version) -> dict[str, object]:
    """Return the fields of `onetrunk ls --format json` and `GET /v1/tasks`."""
    manifest = version.manifest
    return {
        "task": version.task,
        "version": version.version,
        "aliases": list(version.aliases),
        "backbone": manifest.backbone_name,
        "depth": manifest.depth,
        "blocks": manifest.prune_index.blocks,
        "classes": manifest.head.classes,
        "method": manifest.adapter.method,
        "nbytes": version.nbytes,
        "digest": version.digest,
        "published_at": version.published_at,
    }


def summarise_listed(listed: Listed) -> dict[str, object]:
    """Return the same fields of a version whose manifest was not read, and its tags."""
    return {
        "task": listed.task,
        "version": listed.version,
        "aliases": list(listed.aliases),
        "backbone": listed.backbone,
        "depth": listed.depth,
        "blocks": listed.blocks,
        "classes": listed.classes,
        "method": listed.method,
        "nbytes": listed.nbytes,
        "digest": listed.digest,
        "published_at": listed.published_at,
        "removed_at": listed.removed_at,
        "tags": dict(listed.tags),
    }
