"""The git commit of the code that makes a task, for its lineage."""

from __future__ import annotations

import os
import subprocess

TIMEOUT_S = 10.0
# git only reads the working tree: it refreshes no index and asks for no password
QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
DESCRIBE = ("git", "describe", "--always", "--abbrev=64", "--exclude=*", "--dirty")


def current_commit() -> str | None:
    """Return the commit of the working directory, with `-dirty` if tracked files differ; None outside a repository.

    Also None if git is not installed, does not trust the folder's owner, or takes more than 10 s.
    """
    try:
        result = subprocess.run(
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
    return result.stdout.strip() or None
