"""One version as a listing shows it: for the command line, for the server, for scripts."""

from __future__ import annotations

from store.store import Version


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
