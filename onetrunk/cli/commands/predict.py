"""The command that predicts labels of images, in this process or by a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import REF_HELP, Device, Dtype, DtypeOption, command_group, example
from onetrunk.cli.output import Format, print_rows
from onetrunk.rendering.tables import Record, to_json
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from serving.prediction import Prediction

app = command_group()


@app.command(
    epilog=example(
        "predict flowers a.jpg b.png",
        "predict flowers@prod a.jpg --top 1 --format json",
        "predict flowers a.jpg --with birds --with cars:3",
        "predict flowers a.jpg --url http://127.0.0.1:8265",
    )
)
@with_store()
def predict(
    options: StoreOptions,
    ref: Annotated[str, typer.Argument(help=REF_HELP)],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    further: Annotated[
        list[str] | None,
        typer.Option("--with", help="Another task for the same images; may be repeated. Shared blocks run once."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Ask this server; default: predict in this process.")] = None,
    key: Annotated[
        str | None, typer.Option(envvar="ONETRUNK_KEY", help="Secret of an API key, if the server requires one.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of labels.")] = 5,
    logits: Annotated[
        bool, typer.Option("--logits", help="Add every class's logit, in the order of classes.txt.")
    ] = False,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
) -> None:
    """Predict labels of images, in this process or by a server."""
    for path in images:
        if not path.is_file():
            raise InvalidSettingError(f"{str(path)!r} is not a file: give paths of images")
    refs = [ref, *(further or [])]
    if url is None:
        answers = predict_here(options, refs, images, dtype=dtype, device=device)
    else:
        answers = predict_by_server(url, key, refs, images, top=top, logits=logits)
    rows = [{"image": str(path), **answer.to_dict(top=top, logits=logits)} for path, answer in answers]
    if options.fmt is Format.JSON:
        typer.echo(to_json(rows))
    else:
        print_rows([flatten_answer(row) for row in rows], options.fmt)


def predict_here(
    options: StoreOptions, refs: Sequence[str], images: Sequence[Path], *, dtype: str, device: str
) -> Iterator[tuple[Path, Prediction]]:
    """Yield each image with its predictions from this process, in the order of the refs."""
    from serving.runtime.predictor import Predictor

    with options.open() as store:
        backbone = store.resolve(refs[0]).manifest.backbone
        with Predictor(store, backbone=backbone, dtype=dtype, device=device) as predictor:
            for path in images:
                for future in predictor.submit_many(refs, path):
                    yield path, future.result()


def predict_by_server(
    url: str, key: str | None, refs: Sequence[str], images: Sequence[Path], *, top: int, logits: bool
) -> Iterator[tuple[Path, Prediction]]:
    """Yield each image with its predictions from a server, in the order of the refs."""
    from serving.client import Client

    with Client(url, api_key=key or None) as client:
        for path in images:
            for prediction in client.predict_many(refs, path, top=top, logits=logits):
                yield path, prediction


def flatten_answer(row: Record) -> Record:
    top = cast(list[dict[str, object]], row["top"])
    best = {f"top {rank}": f"{entry['label']} {entry['score']:.3f}" for rank, entry in enumerate(top, start=1)}
    return {**{key: value for key, value in row.items() if key not in ("top", "logits")}, **best}
