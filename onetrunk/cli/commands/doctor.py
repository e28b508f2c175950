"""The command that checks the machine and the store."""

from __future__ import annotations

from dataclasses import asdict

import typer

from onetrunk.cli.hints import with_hint
from onetrunk.cli.options import PORT, STORE, Catalogue, StoreUrl, command_group, example
from onetrunk.cli.output import Format, FormatOption, print_rows

app = command_group()


@app.command(epilog=example("doctor", "doctor --format json"))
def doctor(
    store: StoreUrl = STORE, catalogue: Catalogue = None, port: int = PORT, fmt: FormatOption = Format.TABLE
) -> None:
    """Tell what is wrong with machine and store, and how to mend it. Exits with 1 on a fault."""
    from onetrunk.doctor import examine

    findings = examine(store, catalogue=catalogue, port=port)
    print_rows([{**asdict(finding), "found": with_hint(finding.found)} for finding in findings], fmt)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
