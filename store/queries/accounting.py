"""Queries for accounts of the whole store, in SQL that SQLite and PostgreSQL share: plain rows, many at once."""

from __future__ import annotations

from collections.abc import Iterator

from store.queries.sql import QueryBase, aliases_by_version
from store.records.listing import VersionSize

MOVES = ("publish", "rm", "restore", "purge", "backbone", "backbone-rm")


class AccountingQueries(QueryBase):
    """Read what accounts add up."""

    def version_sizes(self) -> list[VersionSize]:
        """Return every version that is not removed, by task and number."""
        with self.connect() as select:
            aliases = aliases_by_version(select, None)
            return [
                VersionSize._make((*row, tuple(aliases[row[0], row[1]])))
                for row in select(
                    "SELECT v.task, v.version, v.digest, v.nbytes, v.published_at, v.backbone, b.name, v.depth, "
                    "v.blocks, v.method, v.total_nbytes FROM versions v "
                    "JOIN backbones b ON b.fingerprint = v.backbone "
                    "WHERE v.removed_at IS NULL ORDER BY v.task, v.version"
                )
            ]

    def blob_references(self) -> Iterator[tuple[str, int, str, int]]:
        """Yield task, version, digest and size for each blob of each version, removed ones too."""
        with self.connect() as select:
            yield from select("SELECT task, version, digest, nbytes FROM named")

    def removed_versions(self) -> set[tuple[str, int]]:
        with self.connect() as select:
            return set(select("SELECT task, version FROM versions WHERE removed_at IS NOT NULL"))

    def moves(self) -> list[tuple[str, str, str, int | None]]:
        """Return time, action, subject and version of each event that changes which blobs are referenced."""
        actions = ", ".join(f"'{action}'" for action in MOVES)
        with self.connect() as select:
            return list(
                select(f"SELECT at, action, subject, version FROM history WHERE action IN ({actions}) ORDER BY number")
            )
