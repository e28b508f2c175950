"""The SQLite file of a catalogue: its rows, and how it gets lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def tables(root: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(root / "catalogue.sqlite")) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {name: sorted(connection.execute(f"select * from {name}"), key=str) for name in names}


def lose_catalogue(root: Path) -> None:
    for path in root.glob("catalogue.sqlite*"):
        path.unlink()
