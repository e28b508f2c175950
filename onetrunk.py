"""The entry point: finds the file of the command that is called, and turns errors into one line and an exit code.

The commands stand in `onetrunk_*.py`, which are all that sees `sls`, `store` and `serving` together. Each imports what
it needs when it runs, so that `--help` and `ls` never wait for torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from store.errors import InvalidNameError, InvalidSettingError, OneTrunkError

FILES = {
    "demo": "onetrunk_serving",
    "fit": "onetrunk_tuning",
    "cut": "onetrunk_tuning",
    "serve": "onetrunk_serving",
    "predict": "onetrunk_serving",
    "doctor": "onetrunk_serving",
    "bench": "onetrunk_bench",
    "ls": "onetrunk_registry",
    "show": "onetrunk_registry",
    "history": "onetrunk_registry",
    "diff": "onetrunk_registry",
    "publish": "onetrunk_lifecycle",
    "import": "onetrunk_lifecycle",
    "export": "onetrunk_lifecycle",
    "rm": "onetrunk_lifecycle",
    "restore": "onetrunk_lifecycle",
    "rollback": "onetrunk_lifecycle",
    "alias": "onetrunk_names",
    "tag": "onetrunk_names",
    "report": "onetrunk_upkeep",
    "verify": "onetrunk_upkeep",
    "gc": "onetrunk_upkeep",
    "rebuild": "onetrunk_upkeep",
    "migrate": "onetrunk_upkeep",
    "leases": "onetrunk_upkeep",
    "key": "onetrunk_upkeep",
    "backbone": "onetrunk_backbones",
}
"""The file of each command."""


def assemble(word: str | None = None) -> typer.Typer:
    """Return the app: with all commands, or where the word is one, with those of its file alone.

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
        app.add_typer(importlib.import_module(name).app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: exit with 0 when done, 1 when it failed, 2 on wrong usage."""
    # Read when torch is loaded, and inherited by Ray's workers: threads that spin at a barrier while another process
    # has their core made a training step 15 times slower than threads that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        assemble(words[0] if words else None)(words)
    except (InvalidNameError, InvalidSettingError) as error:
        fail(error, 2)
    except (OneTrunkError, OSError) as error:  # a full disk has no better name than the one it brings
        fail(error, 1)


def fail(error: Exception, code: int) -> NoReturn:
    typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
