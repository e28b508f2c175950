"""The command that shows a store as pages, without a server."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import command_group, example
from onetrunk.cli.output import log_to_stderr
from onetrunk.cli.signals import StopSignal

CONSOLE_PORT = 8266

app = command_group()


@app.command(
    epilog=example("console", "console /srv/models", "console s3://models/vision --port 9000"),
)
@with_store(fmt=False)
def console(
    options: StoreOptions,
    url: Annotated[str | None, typer.Argument(metavar="[STORE]", help="The store; default: --store.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of this machine to listen on.")] = CONSOLE_PORT,
) -> None:
    """Show a store as web pages, read-only, to this machine alone, until Ctrl-C.

    `serve` offers the same pages at `/console`, with sign-in, changes and predictions.
    """
    stop = StopSignal()
    chosen = options if url is None else replace(options, url=url)
    with chosen.open() as opened:
        from serving.console.standalone import running_console

        with stop.interrupting(), running_console(opened, port=port) as running:
            log_to_stderr(f"ready: open {running.url}; Ctrl-C stops")
            stop.wait(while_=lambda: running.alive)
