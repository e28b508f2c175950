"""Commands that answer images, by a server or in process, and the demo that ends in one."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer

from onetrunk_cli import (
    PORT,
    REF_HELP,
    STORE,
    BackboneName,
    Catalogue,
    Format,
    FormatOption,
    StoreUrl,
    absolute_catalogue,
    absolute_store,
    command_group,
    example,
    open_store,
    print_rows,
    say,
    terminal,
)
from store.errors import InvalidSettingError
from store.render import Row, to_json


class Dtype(enum.StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


DtypeOption = Annotated[Dtype, typer.Option(help="auto: bfloat16 where the device multiplies it natively.")]
Device = Annotated[str, typer.Option(help="A torch device: cpu, cuda, cuda:1.")]

app = command_group()


@app.command(epilog=example("demo", "demo --folder /tmp/demo --keep"))
def demo(
    folder: Annotated[Path, typer.Option(help="Where the store, the report and the pictures go.")] = Path("demo"),
    host: str = "127.0.0.1",
    port: int = PORT,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running until Ctrl-C.")] = False,
) -> None:
    """Tune, cut, store and serve the embedded tasks, end to end. A second run reuses what exists."""
    import onetrunk_demo
    from onetrunk_progress import show_progress

    plan = onetrunk_demo.Demo(folder.resolve(), terminal(), terminal(stderr=True), show_progress)
    onetrunk_demo.run(plan, host=host, port=port, wait=wait_for_signal if keep else None)


@app.command(epilog=example("serve", "serve --port 9000 --dtype float32", "serve --keys --store s3://models/vision"))
def serve(
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = PORT,
    backbone: BackboneName = None,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine; default: all cores.")] = None,
    batch_invariant: Annotated[
        bool,
        typer.Option("--batch-invariant", help="The same image and task give the same bytes whatever else is asked."),
    ] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="Answer only who sends an API key (`onetrunk key add`).")
    ] = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
) -> None:
    """Serve every task of the store, until Ctrl-C. On this machine, or on the Ray cluster that RAY_ADDRESS names."""
    open_store(store, catalogue=catalogue).close()
    from serving.app import ServeSettings, running

    settings = ServeSettings(
        store=absolute_store(store),
        catalogue=absolute_catalogue(catalogue),
        backbone=backbone,
        dtype=dtype,
        device=device,
        threads=threads,
        batch_invariant=batch_invariant,
        keys=keys,
    )
    say(f"starting Ray Serve on {host}:{port} …")
    with running({"/": settings}, host=host, port=port):
        say(f"ready: POST an image to http://{host}:{port}/v1/predict/TASK; Ctrl-C stops")
        wait_for_signal()


@app.command(
    epilog=example(
        "predict flowers a.jpg b.png",
        "predict flowers@prod a.jpg --top 1 --format json",
        "predict flowers a.jpg --with birds --with cars:3",
        "predict flowers a.jpg --url http://127.0.0.1:8265",
    )
)
def predict(
    ref: Annotated[str, typer.Argument(help=REF_HELP)],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    further: Annotated[
        list[str] | None,
        typer.Option("--with", help="A further task for the same images, again for more; shared blocks run once."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Ask this server; default: in process.")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="ONETRUNK_KEY", help="Secret of an API key, where the server asks for one.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels.")] = 5,
    logits: Annotated[
        bool, typer.Option("--logits", help="Add every class's logit, in the order of classes.txt.")
    ] = False,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Answer images, in process or by a server."""
    missing = [str(path) for path in images if not path.is_file()]
    if missing:
        raise InvalidSettingError(f"{missing[0]!r} is no file: give paths of images")
    refs, rows = [ref, *(further or [])], []
    with contextlib.ExitStack() as stack:
        if url is None:
            from serving.service import Service

            opened = stack.enter_context(open_store(store, catalogue=catalogue))
            backbone = opened.resolve(ref).manifest.backbone
            service = stack.enter_context(Service(opened, backbone=backbone, dtype=dtype, device=device))

            def ask(image: bytes) -> Sequence[Row]:
                return [answer.result().to_dict(top=top, logits=logits) for answer in service.submit_many(refs, image)]
        else:
            from serving.load import Connection

            connection = stack.enter_context(contextlib.closing(Connection(url, key=key or None)))

            def ask(image: bytes) -> Sequence[Row]:
                return connection.predict_many(refs, image, top=top, logits=logits)

        for path in images:
            rows += [{"image": str(path), **answer} for answer in ask(path.read_bytes())]
    if fmt is Format.JSON:
        typer.echo(to_json(rows))
    else:
        print_rows([flatten_answer(row) for row in rows], fmt)


@app.command(epilog=example("doctor", "doctor --format json"))
def doctor(
    store: StoreUrl = STORE, catalogue: Catalogue = None, port: int = PORT, fmt: FormatOption = Format.TABLE
) -> None:
    """Tell what is wrong with machine and store, and how to mend it. Exits with 1 on a fault."""
    from serving.doctor import examine

    findings = examine(store, catalogue=catalogue, port=port)
    print_rows([asdict(finding) for finding in findings], fmt)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def flatten_answer(row: Row) -> Row:
    top = cast(list[dict[str, object]], row["top"])
    best = {f"top {rank}": f"{entry['label']} {entry['score']:.3f}" for rank, entry in enumerate(top, start=1)}
    return {**{key: value for key, value in row.items() if key not in ("top", "logits")}, **best}


def wait_for_signal() -> None:
    """Block until the process is asked to stop."""
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
