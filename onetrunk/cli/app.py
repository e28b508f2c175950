"""The entry point: finds the file of the command that is called, and turns errors into one line and an exit code.

The commands are in `onetrunk/cli/commands/`. Each imports what it needs when it runs, so that `--help` and `ls` never
wait for torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from onetrunk.cli.hints import with_hint
from onetrunk.cli.output import log_notes
from store.errors import InvalidNameError, InvalidSettingError, OnetrunkError

FILES = {
    "demo": "demo",
    "fit": "fit",
    "fit-many": "many",
    "cut": "fit",
    "width": "width",
    "serve": "serve",
    "serve-config": "serve_config",
    "console": "console",
    "predict": "predict",
    "score": "score",
    "top": "observe",
    "which": "observe",
    "doctor": "doctor",
    "bench": "bench",
    "ls": "inspect",
    "show": "inspect",
    "history": "inspect",
    "diff": "inspect",
    "publish": "versions",
    "import": "versions",
    "export": "versions",
    "rm": "versions",
    "restore": "versions",
    "rollback": "versions",
    "alias": "aliases",
    "tag": "tags",
    "report": "report",
    "verify": "maintenance",
    "gc": "maintenance",
    "rebuild": "maintenance",
    "migrate": "maintenance",
    "leases": "maintenance",
    "key": "keys",
    "backbone": "backbones",
}
"""The file of each command, in `onetrunk/cli/commands/`."""


def assemble(word: str | None = None) -> typer.Typer:
    """Return the app: with all commands, or if the word is one, with those of its file alone.

    Typer reads the signature of every command that it is given, which for all of them takes longer than `ls` does.
    """
    app = typer.Typer(
        epilog="Begin with `onetrunk demo`: it tunes, cuts, stores and serves real tasks in a few minutes.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def root() -> None:
        """Serve many image tasks from one frozen vision transformer."""

    for name in dict.fromkeys([FILES[word]] if word in FILES else FILES.values()):
        app.add_typer(importlib.import_module(f"onetrunk.cli.commands.{name}").app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: exit with 0 when done, 1 when it failed, 2 on wrong usage."""
    # Read when torch is loaded, and inherited by Ray's workers: threads that spin at a barrier while another process
    # has their core made a training step 15 times slower than threads that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        assemble(words[0] if words else None)(words, prog_name="onetrunk")
    except (InvalidNameError, InvalidSettingError) as error:
        fail(error, 2)
    except (OnetrunkError, OSError) as error:  # such as a full disk
        fail(error, 1)


def fail(error: Exception, code: int) -> NoReturn:
    typer.secho(f"{type(error).__name__}: {with_hint(_printable(str(error)))}", fg="red", err=True)
    log_notes(error)
    sys.exit(code)


def _printable(text: str) -> str:
    """Escape what no terminal takes: a path may have bytes that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()
