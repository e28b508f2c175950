"""Read the files that a user's folder holds: through links, whole, and nothing that has no end."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from store.errors import FormatError

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def read_regular(path: Path, *, limit: int, check: Callable[[BinaryIO, int, str], None] | None = None) -> bytes:
    """Read a regular file of at most `limit` bytes; `check` sees it, its size and name before the rest is read.

    Raises `FileNotFoundError`, or `FormatError` for what is no such file.
    """
    try:
        _require_regular(path, path.stat(), limit)  # before it is opened: a pipe waits, a device may act
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _require_regular(path, status, limit)
            if check is not None:
                check(file, status.st_size, path.name)
                file.seek(0)
            data = file.read(status.st_size + 1)
    except FileNotFoundError:
        if not path.is_symlink():
            raise
        raise FormatError(f"{path} is a link to nothing: copy the file itself there") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}): give a file that this user may read") from None
    if len(data) != status.st_size:
        raise FormatError(f"{path} changed while it was read: wait until it is written")
    return data


def _require_regular(path: Path, status: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise FormatError(f"{path} is {kind}, expected a regular file: put its content there")
    if status.st_size > limit:
        raise FormatError(f"{path} has {status.st_size} bytes, at most {limit} are read: is it the right file?")
