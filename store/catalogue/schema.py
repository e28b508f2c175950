"""The catalogue's tables, in SQL that SQLite and PostgreSQL share."""

from __future__ import annotations

import sqlalchemy as sa

from store.queries.reader import CATALOGUE_FORMAT


def _text(length: int) -> sa.String:
    """Text in the order of its bytes everywhere: a server's own collation changes with its libraries."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


schema = sa.MetaData()
DIGEST = _text(64)
NAME = _text(300)
TIME = _text(32)  # ISO 8601 in UTC with milliseconds, so that the order of the text is the order of time

__all__ = ["CATALOGUE_FORMAT", "schema"]

meta = sa.Table("meta", schema, sa.Column("key", NAME, primary_key=True), sa.Column("value", NAME, nullable=False))
backbones = sa.Table(
    "backbones",
    schema,
    sa.Column("fingerprint", DIGEST, primary_key=True),
    sa.Column("name", NAME, nullable=False, unique=True),
    sa.Column("record", DIGEST, nullable=False),
    sa.Column("record_nbytes", sa.BigInteger, nullable=False),
    sa.Column("weights", DIGEST),
    sa.Column("weights_nbytes", sa.BigInteger),
)
tasks = sa.Table(
    "tasks",
    schema,
    sa.Column("task", NAME, primary_key=True),
    sa.Column("tenant", NAME, nullable=False),
    sa.Column("next_version", sa.Integer, nullable=False),  # outlives the versions: no number is used again
    sa.Index("tasks_by_tenant", "tenant", "task"),  # a tenant's listing must not take longer for the tasks of others
)
versions = sa.Table(
    "versions",
    schema,
    sa.Column("task", NAME, sa.ForeignKey("tasks.task"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", DIGEST, nullable=False),
    sa.Column("nbytes", sa.BigInteger, nullable=False),
    sa.Column("backbone", DIGEST, sa.ForeignKey("backbones.fingerprint"), nullable=False, index=True),
    sa.Column("published_at", TIME, nullable=False),
    sa.Column("removed_at", TIME),
    sa.Column("depth", sa.Integer, nullable=False),
    sa.Column("blocks", sa.Integer, nullable=False),
    sa.Column("classes", sa.Integer, nullable=False),
    sa.Column("method", NAME, nullable=False),
    sa.Column("total_nbytes", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("task", "digest"),
    sa.Index("versions_by_digest", "digest"),
)
version_blobs = sa.Table(
    "named",
    schema,
    sa.Column("task", NAME, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", DIGEST, primary_key=True),
    sa.Column("nbytes", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.version"]),
    sa.Index("named_by_digest", "digest", "task"),
)
aliases = sa.Table(
    "aliases",
    schema,
    sa.Column("task", NAME, primary_key=True),
    sa.Column("alias", NAME, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.version"]),
    sa.Index("aliases_by_name", "alias", "task"),
)
rules = sa.Table(
    "rules",
    schema,
    sa.Column("task", NAME, primary_key=True),
    sa.Column("alias", NAME, primary_key=True),
    sa.Column("protected", sa.Integer, nullable=False),
    sa.Column("max_drop", sa.Double),
    sa.Column("min_accuracy", sa.Double),
)
tags = sa.Table(
    "tags",
    schema,
    sa.Column("task", NAME, sa.ForeignKey("tasks.task"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),  # 0: of the task itself
    sa.Column("key", NAME, primary_key=True),
    sa.Column("value", NAME, nullable=False),
    sa.Index("tags_by_key", "key", "value"),
)
leases = sa.Table(
    "leases",
    schema,
    sa.Column("id", NAME, primary_key=True),
    sa.Column("holder", NAME, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),  # seconds since the epoch
)
holds = sa.Table(
    "holds",
    schema,
    sa.Column("lease", NAME, sa.ForeignKey("leases.id"), primary_key=True),
    sa.Column("digest", DIGEST, primary_key=True),
    sa.Index("holds_by_digest", "digest"),
)
marks = sa.Table(
    "condemned",
    schema,
    sa.Column("digest", DIGEST, primary_key=True),
    sa.Column("since", sa.Double, nullable=False),  # seconds since the epoch
)
keys = sa.Table(
    "keys",
    schema,
    sa.Column("id", NAME, primary_key=True),
    sa.Column("tenant", NAME),  # null: the operator's, for every task
    sa.Column("scopes", NAME, nullable=False),
    sa.Column("sha256", DIGEST, nullable=False),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("revoked_at", TIME),
)
history = sa.Table(
    "history",
    schema,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", TIME, nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", NAME, nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("alias", NAME),
    sa.Column("digest", DIGEST),
    sa.Column("previous", DIGEST, nullable=False),
    sa.Column("actor", NAME),
    sa.Column("details", sa.Text),
    sa.Column("batch", sa.Integer),
    sa.Index("history_by_subject", "subject", "number"),
)
