"""The command line, which with `onetrunk_demo.py` is all that sees `sls`, `store` and `serving` together.

Each command imports what it needs when it runs, so that `--help` and `ls` never wait for torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer
from rich.console import Console

from store.errors import InvalidNameError, InvalidSettingError, OneTrunkError
from store.records import Accuracy, BackboneRecord
from store.render import Row, cell, print_table, to_csv, to_json, to_markdown

if TYPE_CHECKING:  # at run time these come with the command that needs them: the database library alone takes 0.3 s
    from sls.tune import Progress
    from store.backbones import Backbone
    from store.store import Store, Version

# A pipe has no width: what reads it should not get the wrapped cells of an 80-column screen.
out, err = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)


class Format(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class ReportFormat(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    HTML = "html"


class Dtype(enum.StrEnum):
    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


StoreUrl = Annotated[str, typer.Option("--store", envvar="ONETRUNK_STORE", help="Folder of the store.")]
Catalogue = Annotated[
    str | None,
    typer.Option(envvar="ONETRUNK_CATALOGUE", help="Database URL of the catalogue; default: SQLite in the folder."),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
DtypeOption = Annotated[Dtype, typer.Option(help="auto: bfloat16 where the device multiplies it natively.")]
Device = Annotated[str, typer.Option(help="A torch device: cpu, cuda, cuda:1.")]
BackboneName = Annotated[str | None, typer.Option("--backbone", help="Name or fingerprint of a backbone.")]
Alpha = Annotated[float, typer.Option(min=0, max=1, help="Cut where a block scores below alpha x the top block.")]
DataRoot = Annotated[Path | None, typer.Option(help="Where a data set of timm's is, or shall be, on disk.")]
Seed = Annotated[int, typer.Option(help="Seed of initialisation, order and t-SNE.")]

Limit = Annotated[int | None, typer.Option(min=1, help="Take at most so many images of each part.")]

STORE = "onetrunk-store"
PACKAGED = "onetrunk/vit_tiny_64"
DATA_HELP = "onetrunk/NAME (embedded), a folder of class folders, a .npz file, or a name that timm reads."
PORT = 8265
REF_HELP = "TASK, TASK@ALIAS, TASK:NUMBER or TASK@sha256:DIGEST."
LISTED = ("task", "version", "aliases", "backbone", "depth", "blocks", "classes", "method", "nbytes")


def example(*lines: str) -> str:
    """Format the examples that stand under a command's help, each on its own line."""
    return "\b\nExamples:\n" + "\n".join(f"  onetrunk {line}" for line in lines)


def command_group(text: str) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


app = typer.Typer(
    help="Serve many image tasks from one frozen vision transformer.",
    epilog="Begin with `onetrunk demo`: it tunes, cuts, stores and serves real tasks in a few minutes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
backbone_app = command_group("Backbones: add, list, show.")
alias_app = command_group("Aliases: names that move from version to version.")
app.add_typer(backbone_app, name="backbone")
app.add_typer(alias_app, name="alias")


@app.command(epilog=example("demo", "demo --folder /tmp/demo --keep"))
def demo(
    folder: Annotated[Path, typer.Option(help="Where the store, the report and the pictures go.")] = Path("demo"),
    host: str = "127.0.0.1",
    port: int = PORT,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running until Ctrl-C.")] = False,
) -> None:
    """Tune, cut, store and serve the embedded tasks, end to end; a second run reuses what exists."""
    import onetrunk_demo

    plan = onetrunk_demo.Demo(folder.resolve(), out, err, show_progress)
    onetrunk_demo.run(plan, host=host, port=port, wait=wait_for_signal if keep else None)


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
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Tune on DATA, find the cut, retune at it, measure on held-out images, and publish."""
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
        retune=dataclasses.replace(tune, epochs=retune_epochs),
    )
    images = load_task(data, root=data_root, limit=limit, seed=seed)
    with open_store(store, create=True, catalogue=catalogue) as opened, tempfile.TemporaryDirectory() as work:
        with show_progress(err) as watch:
            report = watch(f"{task} ({len(images.classes)} classes, {len(images.train)} images)")
            result = pipeline.fit(images, adopt_backbone(opened, backbone), settings, Path(work), report)
        version = opened.publish(task, result.cut)
    print_versions([version], fmt)
    for name, accuracy in (("full depth", result.certificate.full), ("the cut", result.certificate.cut)):
        err.print(f"accuracy at {name}: {show_accuracy(accuracy)}", highlight=False)


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
    """Score every block of a tuned task and say where SLS cuts, changing nothing."""
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
        report = stack.enter_context(show_progress(err))(target)
        settings = ScoreSettings(alpha=alpha, seed=seed, every=True)
        index = pipeline.score_folder(folder, images, open_backbone(opened, record), settings, report)
    if fmt is Format.JSON:
        out.out(to_json(dataclasses.asdict(index)))
    else:
        rows = [{"block": number, "score": score} for number, score in enumerate(index.scores, start=1)]
        print_rows(rows, fmt)
    threshold = "none" if index.threshold is None else f"{index.threshold:.3f}"
    err.print(f"depth {index.depth} of {index.blocks}, threshold {threshold}", highlight=False)
    if index.reason:
        err.print(index.reason, highlight=False)
    if plot is not None:
        plot.mkdir(parents=True, exist_ok=True)
        err.print(f"picture: {draw_depths({target: index}, plot / 'depths')}", highlight=False)


@app.command("ls", epilog=example("ls", "ls flowers", "ls --format json"))
def list_versions(
    task: Annotated[str | None, typer.Argument(help="List the versions of this task alone.")] = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List the latest version of every task, or every version of one."""
    with open_store(store, catalogue=catalogue) as opened:
        versions = opened.versions(task)
    latest = {version.task: version for version in versions}
    print_versions(versions if task else list(latest.values()), fmt)


@app.command(epilog=example("show flowers", "show flowers@prod --format json", "show flowers:3"))
def show(
    ref: Annotated[str, typer.Argument(help=REF_HELP)],
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Show a version: its manifest, the evidence for its cut, and its certificate."""
    with open_store(store, catalogue=catalogue) as opened:
        version = opened.resolve(ref)
    if fmt is Format.TABLE:
        print_rows(describe(version), fmt)
    else:
        out.out(to_json(json.loads(version.manifest.to_json())))


@app.command(epilog=example("history flowers"))
def history(task: str, store: StoreUrl = STORE, catalogue: Catalogue = None, fmt: FormatOption = Format.TABLE) -> None:
    """Tell what happened to a task: which version was published, and which alias moved, when."""
    with open_store(store, catalogue=catalogue) as opened:
        print_rows(
            [dataclasses.asdict(event) for event in opened.history(task)],
            fmt,
            ("number", "at", "action", "version", "alias"),
        )


@app.command(epilog=example("publish flowers ./checkpoint --backbone onetrunk/vit_tiny_64 --depth 7 --alias prod"))
def publish(
    task: str,
    folder: Annotated[
        Path, typer.Argument(help="PEFT's two files, head.safetensors, classes.txt, perhaps onetrunk.json.")
    ],
    depth: Annotated[int | None, typer.Option(min=1, help="Blocks that run; default: onetrunk.json's, or all.")] = None,
    backbone: BackboneName = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="Point this alias at the new version; may be repeated.")
    ] = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Publish your own PEFT checkpoint and head as a new version; what cannot be served exactly is refused."""
    with open_store(store, create=True, catalogue=catalogue) as opened:
        version = opened.publish(task, folder, depth=depth, backbone=backbone, aliases=tuple(alias or ()))
    print_versions([version], fmt)


@app.command(epilog=example("export flowers@prod ./flowers"))
def export(
    ref: Annotated[str, typer.Argument(help=REF_HELP)],
    folder: Path,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
) -> None:
    """Write a version as a folder that stock PEFT loads, byte for byte as it was published."""
    with open_store(store, catalogue=catalogue) as opened:
        out.print(opened.export(ref, folder))


@app.command(epilog=example("verify"))
def verify(store: StoreUrl = STORE, catalogue: Catalogue = None, fmt: FormatOption = Format.TABLE) -> None:
    """Check every digest in the store; exit with 1 where something is damaged."""
    with open_store(store, catalogue=catalogue) as opened:
        findings = [dataclasses.asdict(finding) for finding in opened.verify()]
    print_rows(findings, fmt)
    if findings:
        raise typer.Exit(1)
    err.print("every digest is right")


@app.command("report", epilog=example("report", "report --format html > report.html", "report --format json"))
def print_report(
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: Annotated[ReportFormat, typer.Option("--format", help="How to print.")] = ReportFormat.TABLE,
) -> None:
    """Account for every byte of the store, beside what the same tasks would take as copies."""
    from store.page import to_html
    from store.report import report
    from store.statement import sections, title

    with open_store(store, catalogue=catalogue) as opened:
        counted = report(opened)
    if fmt is ReportFormat.JSON:
        out.out(to_json(counted.to_json()))
    elif fmt is ReportFormat.CSV:
        out.out(to_csv([dataclasses.asdict(task) for task in counted.tasks]))
    elif fmt is ReportFormat.HTML:
        out.out(to_html(title(counted), str(opened.root), sections(counted)))
    else:
        for section in sections(counted):
            if fmt is ReportFormat.MD:
                out.out(f"## {section.title}\n\n{section.text}\n\n{to_markdown(section.rows)}\n")
            else:
                print_table(section.rows, out, title=section.title)
                err.print(section.text)


@backbone_app.command("add", epilog=example(
    "backbone add onetrunk/vit_tiny_64",
    "backbone add vit_base_patch16_224.augreg_in21k",
    "backbone add vit_small_patch16_224 --weights my.safetensors --arg img_size=96 --as mine/vit_small_96",
))  # fmt: skip
def add_backbone(
    name: Annotated[
        str, typer.Argument(help="A packaged name, a timm name, hf-hub:…, or with --weights an architecture.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Local safetensors file of the architecture.")] = None,
    arg: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for timm's create_model; may be repeated.")] = None,
    label: Annotated[str | None, typer.Option("--as", help="Name to keep it under.")] = None,
    by_reference: Annotated[
        bool, typer.Option("--by-reference", help="Leave the weights where they are, pinned by fingerprint.")
    ] = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Add a backbone to the store: its record, its fingerprint and, once for all tasks, its weights."""
    from store.backbones import encode, load_backbone

    found = load_backbone(name, weights=weights, arguments=parse_arguments(arg or []), label=label)
    if by_reference and weights is not None:
        raise InvalidSettingError("--by-reference cannot find a local file again: leave one of the two options out")
    with open_store(store, create=True, catalogue=catalogue) as opened:
        record = opened.add_backbone(found.record, None if by_reference else encode(found))
    print_rows([backbone_row(record)], fmt)


@backbone_app.command("ls", epilog=example("backbone ls --format json"))
def list_backbones(store: StoreUrl = STORE, catalogue: Catalogue = None, fmt: FormatOption = Format.TABLE) -> None:
    """List the backbones of the store."""
    with open_store(store, catalogue=catalogue) as opened:
        print_rows([backbone_row(record) for record in opened.backbones()], fmt)


@backbone_app.command("show", epilog=example("backbone show onetrunk/vit_tiny_64"))
def show_backbone(name: str, store: StoreUrl = STORE, catalogue: Catalogue = None) -> None:
    """Show a backbone's record as JSON."""
    with open_store(store, catalogue=catalogue) as opened:
        out.out(to_json(dataclasses.asdict(opened.backbone(name))))


@alias_app.command("set", epilog=example("alias set flowers prod 3"))
def set_alias(task: str, alias: str, version: int, store: StoreUrl = STORE, catalogue: Catalogue = None) -> None:
    """Point an alias at a version; a running server follows within a second."""
    with open_store(store, catalogue=catalogue) as opened:
        opened.set_alias(task, alias, version)


@alias_app.command("ls", epilog=example("alias ls flowers"))
def list_aliases(
    task: str, store: StoreUrl = STORE, catalogue: Catalogue = None, fmt: FormatOption = Format.TABLE
) -> None:
    """List the aliases of a task."""
    with open_store(store, catalogue=catalogue) as opened:
        aliases = opened.aliases(task)
    print_rows([{"alias": alias, "version": version} for alias, version in sorted(aliases.items())], fmt)


@app.command(
    epilog=example("serve", "serve --port 9000 --dtype float32", "predict flowers a.jpg --url http://127.0.0.1:8265")
)
def serve(
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = PORT,
    backbone: BackboneName = None,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine; default: all cores.")] = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
) -> None:
    """Serve every task of the store on this machine, or on the Ray cluster that RAY_ADDRESS names, until Ctrl-C."""
    open_store(store, catalogue=catalogue).close()
    from serving.app import ServeSettings, running

    settings = ServeSettings(
        store=str(Path(store).resolve()),
        catalogue=catalogue,
        backbone=backbone,
        dtype=dtype,
        device=device,
        threads=threads,
    )
    err.print(f"starting Ray Serve on {host}:{port} …")
    with running({"/": settings}, host=host, port=port):
        err.print(f"ready: POST an image to http://{host}:{port}/v1/predict/TASK; Ctrl-C stops")
        wait_for_signal()


@app.command(
    epilog=example(
        "predict flowers a.jpg b.png",
        "predict flowers@prod a.jpg --top 1 --format json",
        "predict flowers a.jpg --url http://127.0.0.1:8265",
    )
)
def predict(
    ref: Annotated[str, typer.Argument(help=REF_HELP)],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    url: Annotated[str | None, typer.Option(help="Ask this server; default: in process.")] = None,
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
    with contextlib.ExitStack() as stack:
        if url is None:
            from serving.service import Service

            opened = stack.enter_context(open_store(store, catalogue=catalogue))
            backbone = opened.resolve(ref).manifest.backbone
            service = stack.enter_context(Service(opened, backbone=backbone, dtype=dtype, device=device))
            answers = [service.predict(ref, path.read_bytes()).to_dict(top=top, logits=logits) for path in images]
        else:
            from serving.load import Connection

            connection = stack.enter_context(contextlib.closing(Connection(url)))
            answers = [connection.predict(ref, path.read_bytes(), top=top, logits=logits) for path in images]
    rows = [{"image": str(path), **answer} for path, answer in zip(images, answers, strict=True)]
    if fmt is Format.JSON:
        out.out(to_json(rows))
    else:
        print_rows([flatten_answer(row) for row in rows], fmt)


@app.command(epilog=example("doctor", "doctor --format json"))
def doctor(
    store: StoreUrl = STORE, catalogue: Catalogue = None, port: int = PORT, fmt: FormatOption = Format.TABLE
) -> None:
    """Tell versions, devices and the store's state, what is wrong and how to mend it; exit with 1 on a fault."""
    from serving.doctor import examine

    findings = examine(store, catalogue=catalogue, port=port)
    print_rows([dataclasses.asdict(finding) for finding in findings], fmt)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def open_store(root: str, *, catalogue: str | None, create: bool = False) -> Store:
    from store.store import Store

    return Store.open(root, create=create, catalogue=catalogue)


def print_versions(versions: Sequence[Version], fmt: Format) -> None:
    from store.summary import summarise

    print_rows([summarise(version) for version in versions], fmt, LISTED)


def print_rows(rows: Sequence[Row], fmt: Format, columns: Sequence[str] | None = None) -> None:
    """Print rows to stdout; a table shows only the columns named, JSON and CSV show all."""
    if fmt is Format.JSON:
        out.out(to_json(rows))
    elif fmt is Format.CSV:
        out.out(to_csv(rows))
    else:
        print_table([{key: row[key] for key in columns or row} for row in rows], out)


def describe(version: Version) -> list[Row]:
    """List what a person asks of a version, one field a row."""
    from store.summary import summarise

    manifest, index = version.manifest, version.manifest.prune_index
    fields: dict[str, object] = {
        **summarise(version),
        "modules": len(manifest.adapter.modules),
        "rank": manifest.adapter.rank,
    }
    fields |= {"criterion": index.criterion, "alpha": index.alpha, "threshold": index.threshold, "reason": index.reason}
    fields["scores, block 1 first"] = [cell("score", score) for score in index.scores]
    certificate = manifest.certificate
    for name, accuracy in dataclasses.asdict(certificate).items() if certificate else ():
        measured = Accuracy(**accuracy) if accuracy else None
        fields[f"accuracy {name}"] = show_accuracy(measured) if measured else None
    if manifest.lineage:
        fields |= {"data": manifest.lineage.data, "data digest": manifest.lineage.data_digest}
    return [{"field": key, "value": value} for key, value in fields.items()]


def show_accuracy(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return f"{accuracy.value:.1%} [{low:.1%}, {high:.1%}] on {accuracy.total} held-out images"


def backbone_row(record: BackboneRecord) -> Row:
    return {
        "name": record.name,
        "architecture": record.id.architecture,
        "blocks": record.blocks,
        "dim": record.dim,
        "nbytes": record.nbytes,
        "kept": record.source if record.weights is None else "in the store",
        "fingerprint": record.id.fingerprint,
    }


def flatten_answer(row: Row) -> Row:
    top = cast(list[dict[str, object]], row["top"])
    best = {f"top {rank}": f"{entry['label']} {entry['score']:.3f}" for rank, entry in enumerate(top, start=1)}
    return {**{key: value for key, value in row.items() if key not in ("top", "logits")}, **best}


def parse_arguments(pairs: Sequence[str]) -> dict[str, object]:
    """Read KEY=VALUE pairs, values as JSON where they are JSON."""
    arguments: dict[str, object] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.isidentifier():
            raise InvalidSettingError(f"--arg {pair!r} is not KEY=VALUE: write for example --arg img_size=96")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments


def adopt_backbone(store: Store, name: str) -> Backbone:
    """Open a backbone of the store; one that it has not yet is loaded by name and kept."""
    from store.backbones import encode, load_backbone, open_backbone

    known = [record for record in store.backbones() if name in (record.name, record.id.fingerprint)]
    if known:
        return open_backbone(store, known[0])
    backbone = load_backbone(name)
    store.add_backbone(backbone.record, encode(backbone))
    return backbone


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str], Callable[[Progress], None]]]:
    """Show a bar for each title on a terminal, and elsewhere a line for each stage's first and last step."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def watch(title: str) -> Callable[[Progress], None]:
            bar = bars.add_task(title, state="waiting")

            def report(progress: Progress) -> None:
                state = describe_progress(progress)
                bars.update(bar, completed=progress.step, total=progress.steps, state=state)
                if not console.is_terminal and progress.step in (1, progress.steps):
                    console.print(f"{title}: {state}", highlight=False, soft_wrap=True)

            return report

        yield watch


def describe_progress(progress: Progress) -> str:
    parts = [f"{progress.stage} {progress.step}/{progress.steps}"]
    parts += [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    parts += [f"validation {progress.accuracy:.1%}"] if progress.accuracy is not None else []
    parts += [f"score {progress.score:.3f}"] if progress.score is not None else []
    return ", ".join([*parts, f"{progress.seconds_left:.0f} s left"])


def wait_for_signal() -> None:
    """Block until the process is asked to stop."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def main() -> None:
    """Run the command line: exit with 0 when done, 1 when it failed, 2 on wrong usage."""
    # Read when torch is loaded, and inherited by Ray's workers: threads that spin at a barrier while another process
    # has their core made a training step 15 times slower than threads that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (InvalidNameError, InvalidSettingError) as error:
        fail(error, 2)
    except (OneTrunkError, OSError) as error:  # a full disk has no better name than the one it brings
        fail(error, 1)


def fail(error: Exception, code: int) -> NoReturn:
    err.print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
