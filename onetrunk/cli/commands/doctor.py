"""The command that checks the machine and the store."""

from __future__ import annotations

from dataclasses import asdict

import typer

from onetrunk.cli.hints import with_hint
from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import PORT, command_group, example
from onetrunk.cli.output import print_rows

app = command_group()


@app.command(epilog=example("doctor", "doctor --format json"))
@with_store()
def doctor(options: StoreOptions, port: int = PORT) -> None:
    """Check the machine and the store, and say how to repair what is wrong. Exits with 1 on a fault."""
    from onetrunk.doctor import diagnose

    findings = diagnose(options.url, catalogue=options.catalogue, port=port)
    print_rows([{**asdict(finding), "found": with_hint(finding.found)} for finding in findings], options.fmt)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
