"""The command that asks tasks for many images, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.commands.fit import telling_what_is_kept
from onetrunk.cli.commands.many import RayAddress, Workers
from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import REF_HELP, Device, Dtype, DtypeOption, command_group, example
from onetrunk.cli.output import log_to_stderr, print_record, terminal
from onetrunk.cli.progress import show_count
from store.errors import ImageError

if TYPE_CHECKING:
    from onetrunk.many.score import ScoreSummary

app = command_group()


@app.command(
    epilog=example(
        "score flowers ./pictures --out flowers.parquet",
        "score flowers@prod birds cars:3 shard-0000.tar --out predictions.csv --top 3",
        "score flowers ./pictures --out flowers.parquet --resume",
        "score flowers images.parquet --out flowers.jsonl --logits --ray 10.0.0.1:6379",
    )
)
@with_store()
def score(
    options: StoreOptions,
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help=f"{REF_HELP} Shared blocks run once an image.")],
    data: Annotated[str, typer.Argument(help="A folder of images, a tar or a Parquet file, or a folder of those.")],
    *,
    out: Annotated[Path, typer.Option(help="The file to write: .parquet, .csv or .jsonl, a row for each image.")],
    top: Annotated[int, typer.Option(min=1, help="Number of labels; from 2 on they are a list.")] = 1,
    logits: Annotated[
        bool, typer.Option("--logits", help="Add every class's logit, in the order of classes.txt.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was ended, from its parts.")] = False,
    workers: Workers = None,
    ray: RayAddress = None,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
) -> None:
    """Predict all images of DATA with one or many tasks, and write a file; an image that fails is a row of it."""
    from onetrunk.many.score import score as run

    with (
        telling_what_is_kept(),
        options.open() as store,
        show_count(terminal(stderr=True), f"scoring {data}") as progress,
    ):
        summary = run(
            store,
            refs,
            data,
            out=out,
            top=top,
            logits=logits,
            dtype=dtype,
            device=device,
            catalogue=options.catalogue,
            workers=workers,
            ray_address=ray,
            resume=resume,
            progress=progress,
        )
    for note in summary.notes:
        log_to_stderr(f"data: {note}")
    print_record(describe_score(summary), options.fmt)
    for problem in summary.problems:
        log_to_stderr(problem)
    if summary.failed:
        raise ImageError(f"{summary.failed} of {summary.images} images have no prediction: {out} says why for each")


def describe_score(summary: ScoreSummary) -> dict[str, object]:
    """Return what is printed of a run."""
    return {
        "out": str(summary.out),
        "images": summary.images,
        "failed": summary.failed,
        "resumed": summary.resumed,
        "seconds": round(summary.seconds, 2),
        "images_per_second": round(summary.images_per_second, 1),
        "blocks": summary.blocks,
        "blocks_saved_by_sharing": summary.shared,
        "blocks_saved_by_the_cut": summary.cut,
    }
