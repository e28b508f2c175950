"""The command line as tests call it: in a process of its own as a user does, or in this one, which is quicker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer

from onetrunk.cli.app import main
from store.records.evidence import Accuracy, Certificate, PruneIndex
from store.records.manifest import Card
from support.toy_backbone import Toy


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def run(*arguments: str, store: Path | str, stdin: int = subprocess.DEVNULL) -> Done:
    """Run the command in a process of its own."""
    environment = {**os.environ, "ONETRUNK_STORE": str(store)}
    command = [sys.executable, "-m", "onetrunk", *arguments]
    done = subprocess.run(
        command, stdin=stdin, capture_output=True, text=True, env=environment, timeout=240, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def call(*arguments: str, store: Path | str) -> Done:
    """Run the command in this process, where nobody can be asked; it ends as it would end the process."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("ONETRUNK_STORE", str(store))
        with pytest.raises(SystemExit) as end:
            main(arguments)
    return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


def commands(app: typer.Typer, *prefix: str) -> list[tuple[str, ...]]:
    """Every command by the words that call it."""
    group = typer.main.get_command(app)
    words: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        nested = getattr(command, "commands", None)
        words += [(*prefix, name, inner) for inner in nested] if nested else [(*prefix, name)]
    return words


@dataclass(frozen=True)
class Shell:
    """The command line on one store, which holds the toy backbone; a command that ends otherwise fails the test."""

    root: Path
    folder: Path
    toy: Toy

    def __call__(self, *words: str, code: int = 0) -> Done:
        done = call(*words, store=self.root)
        assert done.code == code, done
        return done

    def json(self, *words: str) -> Any:
        return self(*words, "--format", "json").json

    def publish(self, task: str = "flowers", *options: str, lost: int | None = None) -> dict[str, object]:
        """Publish the folder, with a certificate for a cut that loses so many of 90 right answers in 100."""
        card, words = self.folder / "onetrunk.json", ("--backbone", "toy/vit", "--depth", "2")
        card.unlink(missing_ok=True)
        if lost is not None:
            certificate, words = Certificate(Accuracy(90, 100), Accuracy(90 - lost, 100)), ()
            made = Card(self.toy.record.id.fingerprint, PruneIndex(2, 4, "given"), certificate)
            card.write_bytes(made.to_json())
        (version,) = self.json("publish", task, str(self.folder), *words, *options)
        return version

    def aliases(self, task: str = "flowers") -> dict[str, int]:
        return {row["alias"]: row["version"] for row in self.json("alias", "ls", task)}


def loaded(store: Path, arguments: list[str], *watched: str) -> list[str]:
    """Run the command in a process of its own, and return which of these modules it has imported."""
    program = (
        "import sys; from onetrunk.cli.app import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert not end.code\n"
        f"print(*[name for name in {watched!r} if name in sys.modules])\n"
    )
    environment = {**os.environ, "ONETRUNK_STORE": str(store)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.splitlines()[-1].split()
