"""The command that answers images, in process or by a server."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import typer

from onetrunk.cli.options import (
    REF_HELP,
    STORE,
    Catalogue,
    Device,
    Dtype,
    DtypeOption,
    StoreUrl,
    command_group,
    example,
)
from onetrunk.cli.output import Format, FormatOption, print_rows
from onetrunk.rendering.tables import Record, to_json
from onetrunk.stores import open_store
from serving.prediction import Prediction
from store.errors import InvalidSettingError

app = command_group()


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
            from serving.runtime.predictor import Predictor

            opened = stack.enter_context(open_store(store, catalogue=catalogue))
            backbone = opened.resolve(ref).manifest.backbone
            predictor = stack.enter_context(Predictor(opened, backbone=backbone, dtype=dtype, device=device))

            def ask(image: bytes) -> Sequence[Prediction]:
                return [future.result() for future in predictor.submit_many(refs, image)]
        else:
            from serving.client import Client

            client = stack.enter_context(Client(url, api_key=key or None))

            def ask(image: bytes) -> Sequence[Prediction]:
                return client.predict_many(refs, image, top=top, logits=logits)

        for path in images:
            answers = [prediction.to_dict(top=top, logits=logits) for prediction in ask(path.read_bytes())]
            rows += [{"image": str(path), **answer} for answer in answers]
    if fmt is Format.JSON:
        typer.echo(to_json(rows))
    else:
        print_rows([flatten_answer(row) for row in rows], fmt)


def flatten_answer(row: Record) -> Record:
    top = cast(list[dict[str, object]], row["top"])
    best = {f"top {rank}": f"{entry['label']} {entry['score']:.3f}" for rank, entry in enumerate(top, start=1)}
    return {**{key: value for key, value in row.items() if key not in ("top", "logits")}, **best}
