"""Who made a change, as the history names them."""

from __future__ import annotations

import getpass
import os
import socket

from store.errors import InvalidSettingError
from store.records.bounds import MAX_TEXT


def default_actor() -> str:
    """Return the user and the machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in a container
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:MAX_TEXT]


def check_actor(actor: str) -> str:
    """Return the actor, or raise `InvalidSettingError` where the history could not show it."""
    if not isinstance(actor, str) or not actor.isprintable() or not 1 <= len(actor) <= MAX_TEXT:
        raise InvalidSettingError(f"actor {actor!r:.80} is not valid: use 1 to {MAX_TEXT} printable characters")
    return actor
