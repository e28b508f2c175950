"""Commands that tune a task and say where to cut it."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import onetrunk.cli.fit_options as options
from onetrunk.cli.options import (
    STORE,
    Actor,
    Aliases,
    BackboneName,
    Catalogue,
    Parent,
    StoreUrl,
    command_group,
    example,
)
from onetrunk.cli.output import (
    Format,
    FormatOption,
    log_to_stderr,
    print_record,
    print_rows,
    print_versions,
    show_accuracy,
    terminal,
)
from onetrunk.cli.progress import show_progress
from onetrunk.rendering.tables import Record, to_json
from onetrunk.stores import open_store
from onetrunk.workflows import adopt_backbone, borrow_backbone, publish_folder

if TYPE_CHECKING:
    from sls.pipeline.fit import FitResult
    from store.records.evidence import PruneIndex

PACKAGED = "onetrunk/vit_tiny_64"
DATA_HELP = "onetrunk/NAME (embedded), a folder of class folders, a .npz file, or a name that timm reads."

app = command_group()


@app.command(epilog=example(
    "fit digits onetrunk/digits",
    "fit flowers ./flowers --backbone vit_base_patch16_224.augreg_in21k --criterion ridge --max-drop 1",
    "fit flowers ./flowers --when before --patience 3 --out work",
    "fit flowers ./flowers --method adaptformer --retune head --plot pictures",
))  # fmt: skip
def fit(
    task: Annotated[str, typer.Argument(help="Name to publish under.")],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    backbone: Annotated[str, typer.Option(help="A backbone of the store, a packaged one, or a timm name.")] = PACKAGED,
    method: options.Method = "lora",
    rank: options.Rank = 8,
    scale: options.Scale = 1.0,
    from_block: options.FromBlock = 1,
    criterion: options.Criterion = "sls",
    parity: options.Parity = False,
    alpha: options.Alpha = None,
    tolerance: options.Tolerance = 0.01,
    every: options.Every = False,
    when: options.When = "after",
    retune: options.Mode = None,
    max_drop: options.MaxDrop = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images, before the cut.")] = 8,
    retune_epochs: Annotated[int, typer.Option(min=1, help="Passes over them at the cut.")] = 5,
    patience: options.Patience = 0,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    data_root: options.DataRoot = None,
    out: options.Out = None,
    no_publish: options.NoPublish = False,
    plot: options.Plot = None,
    parent: Parent = None,
    alias: Aliases = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Tune on DATA, cut, tune again, measure and publish. What is measured on are held-out images."""
    from sls.data.loading import load_dataset
    from sls.pipeline import fit as pipeline
    from sls.training.recipe import TrainingConfig
    from store.malloc import keep_freed_memory

    keep_freed_memory()
    tune = TrainingConfig(
        epochs=epochs, rank=rank, seed=seed, method=method, from_block=from_block, patience=patience, scale=scale
    )
    settings = pipeline.FitConfig(
        tune=tune,
        score=options.score_settings(
            criterion, parity=parity, alpha=alpha, tolerance=tolerance, seed=seed, every=every
        ),
        retune=replace(tune, epochs=retune_epochs),
        when=when,
        retune_mode=options.check_mode(when, retune),
        max_drop=max_drop,
    )
    options.check_published(out=out, publish=not no_publish, named=bool(parent or alias))
    images = load_dataset(data, root=data_root, limit=limit, seed=seed)
    with contextlib.ExitStack() as stack:
        opened = None
        if not no_publish:
            opened = stack.enter_context(open_store(store, create=True, catalogue=catalogue, actor=actor))
            if parent is not None:
                opened.resolve(parent)  # half an hour of tuning should not end in a mistyped name
        trunk = (
            borrow_backbone(store, backbone, catalogue=catalogue)
            if opened is None
            else adopt_backbone(opened, backbone)
        )
        work = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with show_progress(terminal(stderr=True)) as watch:
            report = watch(f"{task} ({len(images.classes)} classes, {len(images.train)} images)")
            result = pipeline.fit(images, trunk, out=work, config=settings, progress=report)
        if opened is None:
            print_record(describe_fit(task, result), fmt)
        else:
            version = publish_folder(opened, task, result.cut, aliases=tuple(alias or ()), parent=parent)
            print_versions([version], fmt)
    say_result(result)
    if plot is not None:
        from sls.plots.depth_plot import draw_depths

        certificates, accuracies = {task: result.certificate}, {task: result.accuracies}
        drawn = draw_depths({task: result.index}, plot / "depths", certificates=certificates, accuracies=accuracies)
        log_to_stderr(f"picture: {drawn}")


@app.command(epilog=example(
    "cut digits onetrunk/digits",
    "cut digits onetrunk/digits --parity --format json",
    "cut ./checkpoint ./flowers --backbone onetrunk/vit_tiny_64 --criterion ridge --all --plot pictures",
))  # fmt: skip
def cut(
    target: Annotated[str, typer.Argument(help="A published REF, or a folder as `export` makes it.")],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    criterion: options.Criterion = "sls",
    parity: options.Parity = False,
    alpha: options.Alpha = None,
    tolerance: options.Tolerance = 0.01,
    every: options.Every = False,
    plot: options.Plot = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    data_root: options.DataRoot = None,
    backbone: BackboneName = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Score the blocks of a task from the top, and say where the criterion cuts. Changes nothing."""
    from sls.adapters.task_folder import backbone_of
    from sls.choose_depth import choose_depth
    from sls.data.loading import load_dataset
    from store.malloc import keep_freed_memory
    from store.weights.backbones import open_backbone

    keep_freed_memory()
    settings = options.score_settings(
        criterion, parity=parity, alpha=alpha, tolerance=tolerance, seed=seed, every=every
    )
    images = load_dataset(data, root=data_root, limit=limit, seed=seed)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_store(store, catalogue=catalogue))
        folder = Path(target)
        if not folder.is_dir():
            folder = opened.export(target, Path(stack.enter_context(tempfile.TemporaryDirectory())) / "task")
        record = opened.backbone(backbone or backbone_of(folder))
        report = stack.enter_context(show_progress(terminal(stderr=True)))(target)
        look = choose_depth(folder, images, open_backbone(opened, record), config=settings, progress=report)
    index = look.index
    if fmt is Format.JSON:
        typer.echo(to_json(asdict(index)))
    else:
        rows = [{"block": number, "score": score} for number, score in enumerate(index.scores, start=1)]
        print_rows(rows, fmt)
    say_index(index)
    if plot is not None:
        from sls.plots.depth_plot import draw_depths
        from sls.plots.tsne_maps import draw_maps

        log_to_stderr(f"picture: {draw_depths({target: index}, plot / 'depths')}")
        drawn = draw_maps(look.features, look.labels, images.classes, plot / "maps", depth=index.depth)
        log_to_stderr(f"picture: {drawn}")


def describe_fit(task: str, result: FitResult) -> Record:
    """Return what a fit that is not published is asked for."""
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


def say_result(result: FitResult) -> None:
    say_index(result.index)
    if result.certificate.full is None:
        log_to_stderr(
            "no model was tuned at full depth: what the cut costs is not known; --max-drop tunes one to compare with"
        )
    else:
        log_to_stderr(f"accuracy at full depth: {show_accuracy(result.certificate.full)}")
    log_to_stderr(f"accuracy at the cut: {show_accuracy(result.certificate.cut)}")
    if result.certificate.validation is not None:
        log_to_stderr(
            f"validation accuracy at the cut, against full depth: {-result.certificate.validation.drop:+.2f} points"
        )


def say_index(index: PruneIndex) -> None:
    threshold = "none" if index.threshold is None else f"{index.threshold:.3f}"
    log_to_stderr(f"depth {index.depth} of {index.blocks}, {index.criterion}, threshold {threshold}")
    if index.candidates:
        *others, last = sorted(index.candidates)
        both = f"{', '.join(map(str, others))} and {last}"
        log_to_stderr(
            f"undecided: scores within their noise of the threshold leave depths {both} open; {index.depth} is taken"
        )
    if index.reason:
        log_to_stderr(index.reason)
