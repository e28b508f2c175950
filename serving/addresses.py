"""Addresses of a store as a process in another folder may use them."""

from __future__ import annotations

from pathlib import Path

from store.backends.urls import SCHEME

SQLITE = "sqlite:///"


def absolute_store(url: str | Path) -> str:
    """Return the URL of a bucket as it is, and the path of a folder from the root."""
    return str(url) if SCHEME.match(str(url)) else str(Path(url).resolve())


def absolute_catalogue(catalogue: str | None) -> str | None:
    """Return a database URL as it is, and that of a SQLite file with its path from the root."""
    if catalogue is None or not catalogue.startswith(SQLITE):
        return catalogue
    return f"{SQLITE}{Path(catalogue.removeprefix(SQLITE)).resolve()}"
