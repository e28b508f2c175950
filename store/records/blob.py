"""Bytes by their digest, and the one way in which values become bytes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from blake3 import blake3

from store.errors import FormatError

SHA256 = re.compile(r"[0-9a-f]{64}")  # BLAKE3 digests are written so too
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: object) -> bytes:
    """Encode with sorted keys and no spaces, so that equal values give equal bytes (UTF-8)."""
    return CANONICAL.encode(value).encode()


def blake3_of(data: bytes | memoryview) -> str:
    """Return the second digest of some bytes, which is checked where a task is loaded: a quarter of SHA-256's time."""
    return blake3(data).hexdigest()


def check_blake3(digest: str | None) -> None:
    """Raise `FormatError` where this cannot be a second digest."""
    if digest is not None and not SHA256.fullmatch(digest):
        raise FormatError(f"blake3 {digest[:80]!r}: expected 64 hex digits; restore what names it from a copy")


@dataclass(frozen=True)
class Blob:
    """Name bytes by their SHA-256 (lowercase hex) and their size in bytes."""

    sha256: str
    nbytes: int

    def __post_init__(self) -> None:
        if type(self.sha256) is not str or not SHA256.fullmatch(self.sha256):
            shown = str(self.sha256)[:80]
            raise FormatError(f"blob {shown!r}: expected 64 hex digits; restore what names it from a copy")
        if type(self.nbytes) is not int or self.nbytes < 0:
            raise FormatError(
                f"blob {self.sha256} of {str(self.nbytes)[:80]!r} bytes: expected a size >= 0; "
                "restore what names it from a copy"
            )

    @classmethod
    def of(cls, data: bytes) -> Blob:
        return cls(hashlib.sha256(data).hexdigest(), len(data))
