"""The command that runs the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onetrunk.cli.options import PORT, command_group, example
from onetrunk.cli.output import terminal
from onetrunk.cli.signals import wait_for_signal

app = command_group()


@app.command(epilog=example("demo", "demo --quick", "demo --folder /tmp/demo --keep"))
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Two small tasks, in under a minute.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where the store, the report and the pictures go; default: demo, or demo-quick."),
    ] = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running until Ctrl-C.")] = False,
) -> None:
    """Tune, cut, store and serve the embedded tasks, end to end. A second run reuses what exists."""
    from onetrunk.cli.demo import QUICK, WHOLE, Demo, run
    from onetrunk.cli.progress import show_many

    plan, default = (QUICK, "demo-quick") if quick else (WHOLE, "demo")
    place = (folder or Path(default)).resolve()
    job = Demo(plan, place, terminal(), terminal(stderr=True), show_many)
    run(job, host=host, port=port, wait=wait_for_signal if keep else None)
