"""What a process that runs Ray for another one starts and writes, and how it speaks to that one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TextIO

from serving.cluster.descendants import adopt_orphans, end_all


class OwnProcesses:
    """All that this process starts and writes, in one place and removable at once from any thread."""

    def __init__(self) -> None:
        adopt_orphans()
        self.folder: Path | None = None

    def leave(self) -> None:
        """Kill and remove everything, and end."""
        self.clean()
        os._exit(0)

    def clean(self) -> None:
        end_all()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def answer(answers: TextIO, **fields: object) -> None:
    try:
        print(json.dumps(fields), file=answers, flush=True)  # this is the protocol
    except BrokenPipeError:
        return


def take_stdout() -> TextIO:
    """Keep standard output for the protocol: what libraries print goes where their errors go."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def log_to(path: Path) -> None:
    """Send what Ray says of its own accord to a file: what went wrong is in the errors that it raises."""
    with path.open("ab") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)


def last_line(error: Exception) -> str:
    """Return the line of a traceback of Ray that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
