"""The catalogue's tables, in SQL that SQLite and PostgreSQL share."""

from __future__ import annotations

import sqlalchemy as sa

schema = sa.MetaData()
DIGEST = sa.String(64)
NAME = sa.String(300)

backbones = sa.Table(
    "backbones",
    schema,
    sa.Column("fingerprint", DIGEST, primary_key=True),
    sa.Column("name", NAME, nullable=False, unique=True),
    sa.Column("record", DIGEST, nullable=False),
    sa.Column("record_nbytes", sa.BigInteger, nullable=False),
)
versions = sa.Table(
    "versions",
    schema,
    sa.Column("task", NAME, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", DIGEST, nullable=False),
    sa.Column("nbytes", sa.BigInteger, nullable=False),
    sa.Column("backbone", DIGEST, sa.ForeignKey("backbones.fingerprint"), nullable=False),
    sa.Column("published_at", sa.String(32), nullable=False),
    sa.UniqueConstraint("task", "digest"),
)
aliases = sa.Table(
    "aliases",
    schema,
    sa.Column("task", NAME, primary_key=True),
    sa.Column("alias", NAME, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.version"]),
)
history = sa.Table(
    "history",
    schema,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", NAME, nullable=False, index=True),
    sa.Column("version", sa.Integer),
    sa.Column("alias", NAME),
    sa.Column("digest", DIGEST),
    sa.Column("previous", DIGEST, nullable=False),
)
