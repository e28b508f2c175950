"""Commands that tune a task and say where to cut it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk_backbones import adopt_backbone
from onetrunk_cli import (
    STORE,
    Actor,
    Aliases,
    BackboneName,
    Catalogue,
    Format,
    FormatOption,
    Parent,
    StoreUrl,
    command_group,
    example,
    open_store,
    print_rows,
    print_versions,
    say,
    show_accuracy,
    terminal,
)
from onetrunk_lifecycle import publish_folder
from store.render import to_json

if TYPE_CHECKING:
    from rich.console import Console

    from sls.tune import Progress

Alpha = Annotated[float, typer.Option(min=0, max=1, help="Cut where a block scores below alpha x the top block.")]
DataRoot = Annotated[Path | None, typer.Option(help="Where a data set of timm's is, or shall be, on disk.")]
Seed = Annotated[int, typer.Option(help="Seed of initialisation, order and t-SNE.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take at most so many images of each part.")]

PACKAGED = "onetrunk/vit_tiny_64"
DATA_HELP = "onetrunk/NAME (embedded), a folder of class folders, a .npz file, or a name that timm reads."

app = command_group()


@app.command(
    epilog=example("fit digits onetrunk/digits", "fit flowers ./flowers --backbone vit_base_patch16_224.augreg_in21k")
)
def fit(
    task: Annotated[str, typer.Argument(help="Name to publish under.")],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    backbone: Annotated[str, typer.Option(help="A backbone of the store, a packaged one, or a timm name.")] = PACKAGED,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank.")] = 8,
    alpha: Alpha = 0.3,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images, at full depth.")] = 8,
    retune_epochs: Annotated[int, typer.Option(min=1, help="Passes over them at the cut.")] = 5,
    seed: Seed = 0,
    limit: Limit = None,
    data_root: DataRoot = None,
    parent: Parent = None,
    alias: Aliases = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Tune on DATA, cut, tune again, measure and publish. What is measured on are held-out images."""
    import tempfile

    from sls import pipeline
    from sls.data import load_task
    from sls.prune import ScoreSettings
    from sls.tune import Recipe
    from store.allocator import keep_freed_memory

    keep_freed_memory()
    tune = Recipe(epochs=epochs, rank=rank, seed=seed)
    settings = pipeline.FitSettings(
        tune=tune,
        score=ScoreSettings(alpha=alpha, seed=seed),
        retune=replace(tune, epochs=retune_epochs),
    )
    images = load_task(data, root=data_root, limit=limit, seed=seed)
    with (
        open_store(store, create=True, catalogue=catalogue, actor=actor) as opened,
        tempfile.TemporaryDirectory() as work,
    ):
        if parent is not None:
            opened.resolve(parent)  # half an hour of tuning should not end in a mistyped name
        with show_progress(terminal(stderr=True)) as watch:
            report = watch(f"{task} ({len(images.classes)} classes, {len(images.train)} images)")
            result = pipeline.fit(images, adopt_backbone(opened, backbone), settings, Path(work), report)
        version = publish_folder(opened, task, result.cut, aliases=tuple(alias or ()), parent=parent)
    print_versions([version], fmt)
    for name, accuracy in (("full depth", result.certificate.full), ("the cut", result.certificate.cut)):
        say(f"accuracy at {name}: {show_accuracy(accuracy)}")


@app.command(
    epilog=example(
        "cut digits onetrunk/digits", "cut ./checkpoint ./flowers --backbone onetrunk/vit_tiny_64 --plot pictures"
    )
)
def cut(
    target: Annotated[str, typer.Argument(help="A published REF, or a folder as `export` makes it.")],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    alpha: Alpha = 0.3,
    plot: Annotated[
        Path | None, typer.Option(help="Write the picture of scores against depth here, SVG and PNG.")
    ] = None,
    seed: Seed = 0,
    limit: Limit = None,
    data_root: DataRoot = None,
    backbone: BackboneName = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Score every block of a task and say where SLS cuts. Changes nothing."""
    import tempfile

    from sls import pipeline
    from sls.data import load_task
    from sls.folder import backbone_of
    from sls.pictures import draw_depths
    from sls.prune import ScoreSettings
    from store.allocator import keep_freed_memory
    from store.backbones import open_backbone

    keep_freed_memory()
    images = load_task(data, root=data_root, limit=limit, seed=seed)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_store(store, catalogue=catalogue))
        folder = Path(target)
        if not folder.is_dir():
            folder = opened.export(target, Path(stack.enter_context(tempfile.TemporaryDirectory())) / "task")
        record = opened.backbone(backbone or backbone_of(folder))
        report = stack.enter_context(show_progress(terminal(stderr=True)))(target)
        settings = ScoreSettings(alpha=alpha, seed=seed, every=True)
        index = pipeline.score_folder(folder, images, open_backbone(opened, record), settings, report)
    if fmt is Format.JSON:
        typer.echo(to_json(asdict(index)))
    else:
        rows = [{"block": number, "score": score} for number, score in enumerate(index.scores, start=1)]
        print_rows(rows, fmt)
    threshold = "none" if index.threshold is None else f"{index.threshold:.3f}"
    say(f"depth {index.depth} of {index.blocks}, threshold {threshold}")
    if index.reason:
        say(index.reason)
    if plot is not None:
        plot.mkdir(parents=True, exist_ok=True)
        say(f"picture: {draw_depths({target: index}, plot / 'depths')}")


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str], Callable[[Progress], None]]]:
    """Show a bar for each title on a terminal, and elsewhere a line for each stage's first and last step."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[state]}"))
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def watch(title: str) -> Callable[[Progress], None]:
            bar = bars.add_task(title, state="waiting")

            def report(progress: Progress) -> None:
                state = describe_progress(progress)
                bars.update(bar, completed=progress.step, total=progress.steps, state=state)
                if not console.is_terminal and progress.step in (1, progress.steps):
                    console.print(f"{title}: {state}", soft_wrap=True)

            return report

        yield watch


def describe_progress(progress: Progress) -> str:
    parts = [f"{progress.stage} {progress.step}/{progress.steps}"]
    parts += [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    parts += [f"validation {progress.accuracy:.1%}"] if progress.accuracy is not None else []
    parts += [f"score {progress.score:.3f}"] if progress.score is not None else []
    return ", ".join([*parts, f"{progress.seconds_left:.0f} s left"])
