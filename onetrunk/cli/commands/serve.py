"""The command that serves a store over HTTP."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import OptionGroup, StoreOptions, with_groups, with_store
from onetrunk.cli.options import (
    PORT,
    Device,
    Dtype,
    DtypeOption,
    Schedule,
    ScheduleOption,
    command_group,
    example,
)
from onetrunk.cli.output import log_to_stderr
from onetrunk.cli.parsing import parse_range
from onetrunk.cli.signals import StopSignal
from store.errors import ServerError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from serving.server import RunningServer
    from serving.telemetry_options import TelemetryOptions

app = command_group()


class Ingress(enum.StrEnum):
    AUTO = "auto"
    HAPROXY = "haproxy"
    PYTHON = "python"


class Affinity(enum.StrEnum):
    NONE = "none"
    TASK = "task"


Backbones = Annotated[
    list[str] | None,
    typer.Option("--backbone", help="Serve its tasks alone; may be repeated; default: every backbone of the store."),
]
Host = Annotated[str, typer.Option(help="Address to listen on; beyond this machine it needs --keys or --insecure.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of each replica; default: 1, or all cores for one replica.")
]
BatchInvariant = Annotated[
    bool, typer.Option("--batch-invariant", help="The bytes of an answer do not depend on the rest of the batch.")
]
Keys = Annotated[bool, typer.Option("--keys", help="Answer only requests with an API key (`onetrunk key add`).")]
ReplicaCount = Annotated[
    str | None,
    typer.Option("--replicas", help="Processes that answer, as N, or LEAST:MOST by load; default: a core each."),
]
IngressOption = Annotated[
    Ingress, typer.Option(help="In front of the replicas; auto: haproxy where ray[serve] brings it, which is Linux.")
]
AffinityOption = Annotated[
    Affinity,
    typer.Option(help="task: one replica answers for a task, when all tasks do not fit in the memory of each."),
]
Name = Annotated[str, typer.Option(help="Name of the application on the Ray cluster.")]
GrpcPort = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Serve the Open Inference Protocol over gRPC there too; default: HTTP alone."),
]
Prefix = Annotated[str, typer.Option(help="Path under which the routes are: /vision answers /vision/v1/predict/TASK.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Let everyone who reaches the host predict and read.")]


@dataclass(frozen=True)
class Bounds(OptionGroup):
    """How much a key may ask for, and how long a request waits."""

    rate_limit: Annotated[
        float | None,
        typer.Option(
            help="Images a second that one API key, or without keys all callers, may send; default: any number."
        ),
    ] = None
    max_wait_s: Annotated[
        float,
        typer.Option(
            "--max-wait",
            min=0.01,
            max=600,
            help="Seconds that a prediction may wait for a replica before it is refused.",
        ),
    ] = 5.0


@dataclass(frozen=True)
class Telemetry(OptionGroup):
    """Where the log of requests and the traces go."""

    log: Annotated[
        str, typer.Option(help="A file for a line of JSON for each request; -: standard output; none: nowhere.")
    ] = "-"
    traces: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenTelemetry collector, as http://HOST:4318.")
    ] = None
    trace_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the requests whose client does not say, how many are traced.")
    ] = 0.01
    metric_tasks: Annotated[int, typer.Option(min=0, help="Tasks that have metrics of their own: the busiest.")] = 20

    def options(self) -> TelemetryOptions:
        from serving.telemetry_options import TelemetryOptions

        return TelemetryOptions(**{**vars(self), "log": None if self.log == "none" else self.log})


@app.command(
    epilog=example(
        "serve",
        "serve --port 9000 --replicas 2 --threads 4",
        "serve --host 0.0.0.0 --keys --store s3://models/vision",
        "serve --replicas 1:4 --affinity task",
        "serve --port 8000 --grpc-port 8001",
        "serve --log requests.jsonl --traces http://127.0.0.1:4318",
    )
)
@with_store(fmt=False)
@with_groups
def serve(
    options: StoreOptions,
    *,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = PORT,
    grpc_port: GrpcPort = None,
    backbone: Backbones = None,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
    threads: Threads = None,
    batch_invariant: BatchInvariant = False,
    schedule: ScheduleOption = Schedule.STRETCH,
    keys: Keys = False,
    bounds: Bounds,
    telemetry: Telemetry,
    replicas: ReplicaCount = None,
    ingress: IngressOption = Ingress.AUTO,
    affinity: AffinityOption = Affinity.NONE,
    name: Name = "onetrunk",
    prefix: Prefix = "/",
    insecure: Insecure = False,
) -> None:
    """Serve every task of the store, until Ctrl-C. On a Ray of its own, or on the cluster that RAY_ADDRESS names."""
    stop = StopSignal()
    options.open().close()  # a store that does not open is reported before anything is started
    from serving.server import serve as serve_store

    server = serve_store(
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
        keys=keys,
        **vars(bounds),
        telemetry=telemetry.options(),
        replicas=None if replicas is None else parse_range(replicas, option="--replicas"),
        ingress=ingress,
        affinity=affinity is Affinity.TASK,
        name=name,
        prefix=prefix,
        insecure=insecure,
    )
    log_to_stderr(f"starting Ray Serve on {host}:{port} …")
    run(server, stop, prefix.rstrip("/"))


def run(server: AbstractContextManager[RunningServer], stop: StopSignal, prefix: str) -> None:
    """Serve until the signal; raise `ServerError` where the server ends before it."""
    with stop.interrupting(), server as running:
        log_to_stderr(f"ready: POST an image to {running.url}{prefix}/v1/predict/TASK; Ctrl-C stops")
        stop.wait(while_=lambda: running.alive)
        if not running.alive:
            raise ServerError("the process that runs Ray has ended: start the server again")
