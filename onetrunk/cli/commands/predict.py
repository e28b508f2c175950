"""The command that predicts labels of images, in this process or by a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import REF_HELP, Device, Dtype, DtypeOption, command_group, example
from onetrunk.cli.output import Format, log_to_stderr, print_rows, terminal
from onetrunk.cli.progress import show_count
from onetrunk.rendering.tables import Record, to_json
from store.errors import ImageError, InvalidSettingError, OnetrunkError, ServerError

if TYPE_CHECKING:
    from serving.client import Client
    from serving.prediction import Prediction

app = command_group()


@app.command(
    epilog=example(
        "predict flowers a.jpg b.png",
        "predict flowers@prod a.jpg --top 1 --format json",
        "predict flowers a.jpg --with birds --with cars:3",
        "predict flowers a.jpg pictures/ --url http://127.0.0.1:8265",
    )
)
@with_store()
def predict(
    options: StoreOptions,
    ref: Annotated[str, typer.Argument(help=REF_HELP)],
    images: Annotated[list[Path], typer.Argument(help="Image files; with --url, folders of them too.")],
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
        if not path.is_file() and not (path.is_dir() and url is not None and not further):
            raise InvalidSettingError(f"{str(path)!r} is not a file: give paths of images")
    refs = [ref, *(further or [])]
    failed: list[Path] = []
    if url is None:
        answers = predict_here(options, refs, images, failed, dtype=dtype, device=device)
    else:
        answers = predict_by_server(url, key, refs, images, failed, top=top, logits=logits)
    rows = [{"image": str(path), **answer.to_dict(top=top, logits=logits)} for path, answer in answers]
    if options.fmt is Format.JSON:
        typer.echo(to_json(rows))
    else:
        print_rows([flatten_answer(row) for row in rows], options.fmt)
    if failed:
        raise ImageError(f"{len(failed)} of the files got no answer: each is named above with the reason")


def predict_here(
    options: StoreOptions, refs: Sequence[str], images: Sequence[Path], failed: list[Path], *, dtype: str, device: str
) -> Iterator[tuple[Path, Prediction]]:
    """Yield each image with its predictions from this process, in the order of the refs; say which have none, and why.

    What is wrong with the refs is raised before the first image.
    """
    from serving.runtime.predictor import Predictor

    with options.open() as store:
        backbone = store.resolve(refs[0]).manifest.backbone
        with Predictor(store, backbone=backbone, dtype=dtype, device=device) as predictor:
            predictor.tasks.resolve(refs)
            for path in images:
                with naming(path, failed, ImageError, alone=len(images) == 1):
                    yield from [(path, future.result()) for future in predictor.submit_many(refs, path)]


def predict_by_server(
    url: str,
    key: str | None,
    refs: Sequence[str],
    images: Sequence[Path],
    failed: list[Path],
    *,
    top: int,
    logits: bool,
) -> Iterator[tuple[Path, Prediction]]:
    """Yield each image with its predictions from a server, in the order of the refs."""
    from serving.client import Client

    with Client(url, api_key=key or None) as client:
        for path in images:
            if path.is_dir():
                yield from predict_folder(client, refs[0], path, failed, top=top, logits=logits)
                continue
            with naming(path, failed, ImageError, ServerError, alone=len(images) == 1):
                yield from [(path, one) for one in client.predict_many(refs, path, top=top, logits=logits)]


@contextmanager
def naming(path: Path, failed: list[Path], *errors: type[OnetrunkError], alone: bool) -> Iterator[None]:
    """Note a file that got no answer, and say why: others still get theirs; for one alone it is the error."""
    try:
        yield
    except errors as error:
        if alone:
            raise type(error)(f"{path}: {error}") from None
        failed.append(path)
        log_to_stderr(f"{path}: {error}")


def predict_folder(
    client: Client, ref: str, folder: Path, failed: list[Path], *, top: int, logits: bool
) -> Iterator[tuple[Path, Prediction]]:
    """Yield the images of a folder with their predictions; say of the others why they have none."""
    with show_count(terminal(stderr=True), folder.name) as progress:
        for answer in client.predict_folder(ref, folder, top=top, logits=logits, progress=progress):
            if answer.prediction is not None:
                yield answer.path, answer.prediction
            else:
                failed.append(answer.path)
                log_to_stderr(f"{answer.path}: {answer.problem}")


def flatten_answer(row: Record) -> Record:
    top = cast(list[dict[str, object]], row["top"])
    best = {f"top {rank}": f"{entry['label']} {entry['score']:.3f}" for rank, entry in enumerate(top, start=1)}
    return {**{key: value for key, value in row.items() if key not in ("top", "logits")}, **best}
