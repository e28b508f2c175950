"""The command that runs the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onetrunk.cli.options import PORT, command_group, example
from onetrunk.cli.output import terminal
from onetrunk.cli.signals import wait_for_signal

app = command_group()


@app.command(epilog=example("demo", "demo --folder /tmp/demo --keep"))
def demo(
    folder: Annotated[Path, typer.Option(help="Where the store, the report and the pictures go.")] = Path("demo"),
    host: str = "127.0.0.1",
    port: int = PORT,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running until Ctrl-C.")] = False,
) -> None:
    """Tune, cut, store and serve the embedded tasks, end to end. A second run reuses what exists."""
    from onetrunk.cli import demo as the_demo
    from onetrunk.cli.progress import show_progress

    plan = the_demo.Demo(folder.resolve(), terminal(), terminal(stderr=True), show_progress)
    the_demo.run(plan, host=host, port=port, wait=wait_for_signal if keep else None)
