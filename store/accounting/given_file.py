"""Read a file that a caller names beside the store, such as prices or an older report."""

from __future__ import annotations

from pathlib import Path

from store.errors import FormatError, NotFoundError


def read_given(path: Path, *, limit: int, missing: str, too_large: str) -> bytes:
    """Return at most `limit` bytes, or raise: `missing` is what to name instead, `too_large` why more are refused."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read ({error.strerror}): {missing}") from None
    if len(data) > limit:
        raise FormatError(f"{path} has more than {limit} bytes{too_large}")
    return data
