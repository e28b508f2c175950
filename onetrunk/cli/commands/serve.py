"""The command that serves a store over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import (
    PORT,
    BackboneName,
    Device,
    Dtype,
    DtypeOption,
    Schedule,
    ScheduleOption,
    command_group,
    example,
)
from onetrunk.cli.output import log_to_stderr
from onetrunk.cli.signals import wait_for_signal

app = command_group()


@app.command(epilog=example("serve", "serve --port 9000 --dtype float32", "serve --keys --store s3://models/vision"))
@with_store(fmt=False)
def serve(
    options: StoreOptions,
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = PORT,
    backbone: BackboneName = None,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine; default: all cores.")] = None,
    batch_invariant: Annotated[
        bool,
        typer.Option("--batch-invariant", help="The bytes of an answer do not depend on the rest of the batch."),
    ] = False,
    schedule: ScheduleOption = Schedule.STRETCH,
    keys: Annotated[
        bool, typer.Option("--keys", help="Answer only requests with an API key (`onetrunk key add`).")
    ] = False,
) -> None:
    """Serve every task of the store, until Ctrl-C. On this machine, or on the Ray cluster that RAY_ADDRESS names."""
    options.open().close()  # a store that does not open is reported before Ray is loaded
    from serving.app import serve as serve_store

    server = serve_store(
        options.url,
        host=host,
        port=port,
        catalogue=options.catalogue,
        backbone=backbone,
        dtype=dtype,
        device=device,
        threads=threads,
        batch_invariant=batch_invariant,
        schedule=schedule,
        keys=keys,
    )
    log_to_stderr(f"starting Ray Serve on {host}:{port} …")
    with server:
        log_to_stderr(f"ready: POST an image to http://{host}:{port}/v1/predict/TASK; Ctrl-C stops")
        wait_for_signal()
