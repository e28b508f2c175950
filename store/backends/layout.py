"""Every key that a store uses, in a folder or in a bucket."""

from __future__ import annotations

import re

from store.errors import InvalidNameError

IDENTITY = "store.json"
CATALOGUE = "catalogue.sqlite"
CATALOGUE_LOCK = "catalogue.lock"
SQLITE_SUFFIXES = ("", "-wal", "-shm", "-journal")
BLOBS = "blobs/sha256"
JOURNAL = "journal"
QUARANTINE = "quarantine"

OVERHEAD = frozenset({IDENTITY, CATALOGUE_LOCK, *(CATALOGUE + suffix for suffix in SQLITE_SUFFIXES)})
KEY = re.compile(r"(?:(?!\.+(?:/|\Z))[A-Za-z0-9._-]{1,200}(?:/(?!\Z)|\Z))+")
BLOB_KEY = re.compile(rf"{BLOBS}/([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})")
JOURNAL_KEY = re.compile(rf"{JOURNAL}/[0-9]{{20}}\.json")

TEMPORARY = r"(?:[A-Za-z0-9._-]+/)*\.[A-Za-z0-9._-]+\.[0-9a-f]{16}\.partial"
TEMPORARY_KEY = re.compile(rf"{TEMPORARY}(-wal|-shm|-journal)?|probe/[A-Za-z0-9-]+")


def is_temporary(key: str) -> bool:
    """Say whether a writer or a probe that died left this, under a name that nothing reads."""
    return TEMPORARY_KEY.fullmatch(key) is not None


def blob_key(sha256: str) -> str:
    return f"{BLOBS}/{sha256[:2]}/{sha256}"


def journal_key(number: int) -> str:
    return f"{JOURNAL}/{number:020d}.json"


def quarantine_key(sha256: str, token: str) -> str:
    return f"{QUARANTINE}/{sha256}.{token}"


def digest_of(key: str) -> str | None:
    """Return the digest that the key promises, None where it is no blob's."""
    match = BLOB_KEY.fullmatch(key)
    return match.group(2) if match else None


def kind_of(key: str) -> str:
    """Say what the object is for: "blob", "overhead", "quarantine", or "garbage" that no store names."""
    if BLOB_KEY.fullmatch(key):
        return "blob"
    if key in OVERHEAD or JOURNAL_KEY.fullmatch(key):
        return "overhead"
    return "quarantine" if key.startswith(f"{QUARANTINE}/") else "garbage"


def check_key(key: str) -> str:
    """Return the key, or raise `InvalidNameError` where it could mean another place than it says."""
    if not KEY.fullmatch(key):
        raise InvalidNameError(
            f"key {key[:80]!r} is not valid: use letters, digits, '.', '_' and '-', in parts divided by single '/'"
        )
    return key
