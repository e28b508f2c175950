"""The command that writes the file with which a Ray cluster serves a store."""

from __future__ import annotations

from typing import Annotated

import typer

from onetrunk.cli.commands.serve import BatchInvariant, GrpcPort, Name, Prefix, RateLimit
from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import (
    BackboneName,
    Device,
    Dtype,
    DtypeOption,
    Schedule,
    ScheduleOption,
    command_group,
    example,
)
from onetrunk.cli.parsing import parse_range

app = command_group()


@app.command(
    name="serve-config",
    epilog=example(
        "serve-config --store s3://onetrunk/vision --catalogue postgresql+psycopg://onetrunk@postgres/onetrunk",
        "serve-config --store s3://models/vision --replicas 2:8 --threads 4 > serve.yaml",
        "serve-config --store /srv/onetrunk --replicas 1 --insecure",
    ),
)
@with_store(fmt=False)
def serve_config(
    options: StoreOptions,
    *,
    host: Annotated[str, typer.Option(help="Address of each node to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of each node; 8265 is Ray's dashboard.")] = 8000,
    grpc_port: GrpcPort = None,
    backbone: BackboneName = None,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a replica, and the cores that Ray keeps.")] = 2,
    batch_invariant: BatchInvariant = False,
    schedule: ScheduleOption = Schedule.STRETCH,
    rate_limit: RateLimit = None,
    replicas: Annotated[str, typer.Option(help="Replicas on the whole cluster, as N, or LEAST:MOST by load.")] = "2",
    name: Name = "onetrunk",
    prefix: Prefix = "/",
    insecure: Annotated[bool, typer.Option("--insecure", help="Let everyone predict and read, without keys.")] = False,
) -> None:
    """Print the file for `serve deploy` and KubeRay, for a Ray cluster of your own. Nothing is opened or started."""
    from serving.deployment_file import deployment_file

    typer.echo(
        deployment_file(
            options.url,
            host=host,
            port=port,
            grpc_port=grpc_port,
            catalogue=options.catalogue,
            backbone=backbone,
            dtype=dtype,
            device=device,
            threads=threads,
            batch_invariant=batch_invariant,
            schedule=schedule,
            rate_limit=rate_limit,
            replicas=parse_range(replicas, option="--replicas"),
            name=name,
            prefix=prefix,
            keys=not insecure,
        ),
        nl=False,
    )
