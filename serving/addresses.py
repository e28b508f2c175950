"""Addresses of a store as a process in another folder may use them."""

from __future__ import annotations

from pathlib import Path

from store.backends.urls import SCHEME
from store.errors import InvalidSettingError

SQLITE = "sqlite:///"


def absolute_store(url: str | Path) -> str:
    """Return the URL of a bucket as it is, and the path of a folder from the root."""
    return str(url) if SCHEME.match(str(url)) else str(Path(url).resolve())


def absolute_catalogue(catalogue: str | None) -> str | None:
    """Return a database URL as it is, and that of a SQLite file with its path from the root."""
    if catalogue is None or not catalogue.startswith(SQLITE):
        return catalogue
    return f"{SQLITE}{Path(catalogue.removeprefix(SQLITE)).resolve()}"


def check_shared(store: str, catalogue: str | None, *, nodes: int) -> None:
    """Raise where replicas on several machines would open one SQLite file, whose locks hold on one machine only."""
    if nodes > 1 and (catalogue.startswith("sqlite:") if catalogue else not SCHEME.match(store)):
        raise InvalidSettingError(
            f"the catalogue {catalogue or f'in the folder {store}'} is a SQLite file, and replicas may run on {nodes} "
            "nodes of this Ray cluster: over a shared volume, SQLite's locks do not hold, and the file would break. "
            "Move the catalogue to PostgreSQL and name it with `catalogue=`, or serve from one node"
        )
