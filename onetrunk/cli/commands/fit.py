"""Commands that tune a task and say where to cut it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.fit_options import (
    AdapterOptions,
    DataOptions,
    Plot,
    ResultOptions,
    ScheduleOptions,
    ScoreOptions,
    fit_config,
)
from onetrunk.cli.fit_pictures import draw_fit
from onetrunk.cli.option_groups import StoreOptions, with_groups, with_store
from onetrunk.cli.options import BackboneName, DryRun, command_group, example
from onetrunk.cli.output import (
    Format,
    log_notes,
    log_to_stderr,
    print_record,
    print_rows,
    print_versions,
    terminal,
)
from onetrunk.cli.plan_output import print_plan
from onetrunk.cli.progress import show_progress
from onetrunk.cli.recipe_options import RecipeOptions
from onetrunk.cli.tuned_folder import opened
from onetrunk.cli.width_options import SearchOptions, WidthOptions, parse_budgets
from onetrunk.cli.width_output import draw_points, log_width, print_points
from onetrunk.rendering.accuracy import with_interval
from onetrunk.rendering.measures import describe_measures
from onetrunk.rendering.tables import Record, to_json
from onetrunk.workflows import (
    adopt_backbone,
    borrow_backbone,
    check_names,
    check_publishable,
    publish_folder,
)
from store.errors import StoreNotFoundError
from store.records.backbone import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from sls.choose_depth import DepthChoice
    from sls.data.dataset import Dataset
    from sls.pipeline.config import FitConfig
    from sls.pipeline.fit import FitResult
    from sls.progress import ProgressCallback
    from store.records.evidence import PruneIndex
    from store.registry.store import Store
    from store.weights.backbones import Backbone

DATA_HELP = (
    "onetrunk/NAME (embedded); a folder of class folders; a CSV or JSON Lines file of paths and labels; .npz; .parquet "
    "or a WebDataset .tar, or a folder of them; what save_to_disk wrote; a name that timm reads, such as torch/cifar10."
)

app = command_group()


@app.command(epilog=example(
    "fit digits onetrunk/digits",
    "fit flowers ./flowers --backbone vit_base_patch16_224.augreg_in21k --criterion ridge --max-drop 1",
    "fit flowers ./flowers --when early --criterion cka --patience 3 --out work",
    "fit flowers ./flowers --method adaptformer --retune head --plot pictures",
    "fit flowers ./flowers --width vit-slim --budget 0.7 --plot pictures",
    "fit flowers ./flowers --width taylor --budgets 0.3,0.5,0.7",
    "fit flowers flowers.csv --config recipe.toml --lr 1e-3 --augment light --dry-run",
))  # fmt: skip
@with_store(write=True)
@with_groups
def fit(
    options: StoreOptions,
    task: Annotated[str, typer.Argument(help="Name to publish under.")],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    *,
    backbone: Annotated[
        str, typer.Option(help="A backbone of the store, a packaged one, or a timm name.")
    ] = DEFAULT_BACKBONE,
    adapter: AdapterOptions,
    recipe: RecipeOptions,
    score: ScoreOptions,
    schedule: ScheduleOptions,
    width: WidthOptions,
    search: SearchOptions,
    images: DataOptions,
    output: ResultOptions,
    dry_run: DryRun = False,
) -> None:
    """Tune on DATA, cut, tune again, measure on held-out images, and publish."""
    from store.malloc import keep_freed_memory

    keep_freed_memory()
    config = fit_config(adapter, recipe, score, schedule, seed=images.seed)
    config = replace(config, width=width.config(search, max_drop=schedule.max_drop))
    shares = None if width.budgets is None else parse_budgets(width.budgets)
    output.check(data)
    aliases = tuple(output.alias or ())
    check = functools.partial(check_publishable, parent=output.parent, drop_known=config.measures_drop)
    check_names(task, aliases)
    if not output.no_publish:  # half an hour of tuning should not end in a mistyped name
        with contextlib.suppress(StoreNotFoundError), options.open() as store:
            check(store, task, aliases)
    dataset = images.load(data)
    if dry_run:
        print_plan(task, dataset, borrow(options, backbone), config, options.fmt)
        return
    if shares is not None:
        show_budgets(task, dataset, borrow(options, backbone), config, shares, output, options.fmt)
        return
    tune_and_publish(options, task, dataset, backbone, config, output, check)


def tune_and_publish(
    options: StoreOptions,
    task: str,
    dataset: Dataset,
    backbone: str,
    config: FitConfig,
    output: ResultOptions,
    check: Callable[[Store, str, Sequence[str]], None],
) -> None:
    """Fit the task, and publish it unless the options say not to; `check` refuses what could not be published."""
    from sls.pipeline.fit import fit
    from sls.pipeline.work_folder import work_folder

    aliases = tuple(output.alias or ())
    with contextlib.ExitStack() as stack:
        stack.enter_context(telling_what_is_kept())
        new = None if output.no_publish else stack.enter_context(options.open(create=True))
        if new:
            check(new, task, aliases)
        model = adopt_backbone(new, backbone) if new else borrow(options, backbone)
        work = stack.enter_context(work_folder(output.out))
        with progress_of(f"{task} ({len(dataset.classes)} classes, {len(dataset.train)} images)") as progress:
            result = fit(dataset, model, out=work, config=config, progress=progress)
        if new is None:
            print_record(describe_fit(task, result), options.fmt)
        else:
            version = publish_folder(new, task, result.cut, aliases=aliases, parent=output.parent)
            print_versions([version], options.fmt)
    log_result(result, dataset.classes)
    if output.plot is not None:
        draw_fit(task, result, dataset, output.plot)


def show_budgets(
    task: str,
    dataset: Dataset,
    backbone: Backbone,
    config: FitConfig,
    budgets: Sequence[float],
    output: ResultOptions,
    fmt: Format,
) -> None:
    """Tune once, search once, tune again at each budget; publish nothing."""
    from sls.pipeline.fit import fit_budgets
    from sls.pipeline.work_folder import work_folder

    with telling_what_is_kept(), work_folder(output.out) as work, progress_of(task) as progress:
        full, points = fit_budgets(dataset, backbone, budgets, out=work, config=config, progress=progress)
    print_points(points, fmt)
    if output.plot is not None:
        draw_points(task, points, output.plot, full=full)


@contextlib.contextmanager
def telling_what_is_kept() -> Iterator[None]:
    """Print the notes of an interrupt, which typer reports without them."""
    try:
        yield
    except KeyboardInterrupt as error:
        log_notes(error)
        raise


def borrow(options: StoreOptions, name: str) -> Backbone:
    return borrow_backbone(options.url, name, catalogue=options.catalogue)


@contextlib.contextmanager
def progress_of(title: str) -> Iterator[ProgressCallback]:
    with show_progress(terminal(stderr=True)) as watch:
        yield watch(title)


@app.command(epilog=example(
    "cut digits onetrunk/digits",
    "cut digits onetrunk/digits --parity --format json",
    "cut ./checkpoint ./flowers --backbone onetrunk/vit_tiny_64.v2 --criterion ridge --all --plot pictures",
))  # fmt: skip
@with_store()
@with_groups
def cut(
    options: StoreOptions,
    target: Annotated[str, typer.Argument(help="A published REF, or a folder as `export` makes it.")],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    *,
    score: ScoreOptions,
    plot: Plot = None,
    images: DataOptions,
    backbone: BackboneName = None,
) -> None:
    """Score the blocks of a task from the top, and say where the criterion cuts. Changes nothing."""
    from sls.choose_depth import choose_depth
    from store.malloc import keep_freed_memory

    keep_freed_memory()
    config = score.config(seed=images.seed)
    dataset = images.load(data)
    with opened(options, target, backbone) as (folder, model), progress_of(target) as progress:
        choice = choose_depth(folder, dataset, model, config=config, progress=progress)
    print_index(choice.index, options.fmt)
    if plot is not None:
        draw_choice(target, choice, dataset.classes, plot)


def print_index(index: PruneIndex, fmt: Format) -> None:
    if fmt is Format.JSON:
        typer.echo(to_json(asdict(index)))
    else:
        print_rows([{"block": block, "score": score} for block, score in enumerate(index.scores, start=1)], fmt)
    log_index(index)


def draw_choice(target: str, choice: DepthChoice, classes: Sequence[str], folder: Path) -> None:
    from sls.plots.depth_plot import draw_depths
    from sls.plots.tsne_maps import draw_maps

    log_to_stderr(f"picture: {draw_depths({target: choice.index}, folder / 'depths')}")
    maps = draw_maps(choice.features, choice.labels, classes, folder / "maps", depth=choice.index.depth)
    log_to_stderr(f"picture: {maps}")


def describe_fit(task: str, result: FitResult) -> Record:
    """Return what is printed of a fit that is not published."""
    full = result.certificate.full
    return {
        "task": task,
        "folder": str(result.cut),
        "depth": result.index.depth,
        "blocks": result.index.blocks,
        "criterion": result.index.criterion,
        "accuracy": result.certificate.cut.value,
        "accuracy_full": full and full.value,
    }


def log_result(result: FitResult, classes: Sequence[str]) -> None:
    log_index(result.index)
    if result.certificate.full is None:
        log_to_stderr(
            "no model was tuned at full depth: what the cut costs is not known; --max-drop tunes one to compare with"
        )
    else:
        log_to_stderr(f"accuracy at full depth: {with_interval(result.certificate.full)}")
    log_to_stderr(f"accuracy at the cut: {with_interval(result.certificate.cut)}")
    if result.certificate.validation is not None:
        log_to_stderr(
            f"validation accuracy at the cut, against full depth: {-result.certificate.validation.drop:+.2f} points"
        )
    for name, value in describe_measures(result.certificate, classes).items():
        log_to_stderr(f"{name}: {value}")


def log_index(index: PruneIndex) -> None:
    threshold = "none" if index.threshold is None else f"{index.threshold:.3f}"
    log_to_stderr(f"depth {index.depth} of {index.blocks}, {index.criterion}, threshold {threshold}")
    if index.candidates:
        *others, last = sorted(index.candidates)
        both = f"{', '.join(map(str, others))} and {last}"
        log_to_stderr(
            f"undecided: scores within their noise of the threshold leave depths {both} open; {index.depth} is taken"
        )
    log_width(index)
    if index.reason:
        log_to_stderr(index.reason)
