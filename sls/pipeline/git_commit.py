"""Which code a task was made with."""

from __future__ import annotations

import os
import subprocess

TIMEOUT_S = 10.0
# The working tree is looked at and not touched: no refreshed index, no prompt for a password.
QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
DESCRIBE = ("git", "describe", "--always", "--abbrev=64", "--exclude=*", "--dirty")


def current_commit() -> str | None:
    """Return the commit of the working directory, with `-dirty` where tracked files differ; None where there is none.

    None also where git is not installed, does not trust the folder's owner, or takes too long.
    """
    try:
        done = subprocess.run(
            DESCRIBE,
            env={**os.environ, **QUIET},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
