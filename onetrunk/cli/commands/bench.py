"""The command that measures this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import BackboneName, Device, Dtype, DtypeOption, command_group, example
from onetrunk.cli.output import log_to_stderr, print_rows, terminal
from store.errors import InvalidSettingError, StoreNotFoundError

if TYPE_CHECKING:
    from serving.benchmark.figures import Figure, Published
    from store.records.manifest import Manifest
    from store.registry.store import Store
    from store.weights.backbones import Backbone

SHARE = "share of peak"  # the one figure where more is better
PICTURES = frozenset({".svg", ".png"})

app = command_group()


@app.command(
    epilog=example("bench --quick", "bench --backbone vit_base_patch16_224.augreg_in21k --plot bench.svg --format json")
)
@with_store()
def bench(
    options: StoreOptions,
    backbone: BackboneName = None,
    tasks: Annotated[int | None, typer.Option(min=1, max=1024, help="Tasks in a mixed batch.")] = None,
    rounds: Annotated[int | None, typer.Option(min=2, max=10_000, help="How often each is measured, in turn.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer tasks and rounds: a first look.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into this .svg or .png.")] = None,
    dtype: DtypeOption = Dtype.AUTO,
    device: Device = "cpu",
) -> None:
    """Measure what mixed tasks cost on this machine, against one merged task: ratios, with their spread.

    With a store, its backbone and its own tasks are measured; without one, the packaged backbone.
    """
    if plot is not None and plot.suffix not in PICTURES:
        raise InvalidSettingError(f"--plot {str(plot)!r} is not a picture: name a file that ends in .svg or .png")
    from serving.benchmark.figures import QUICK, Plan
    from serving.benchmark.figures import bench as measure
    from serving.kernel.instruction_sets import choose_kernel
    from serving.runtime.device import choose_dtype
    from store.malloc import keep_freed_memory

    kernel = choose_kernel() if device.startswith("cpu") else None
    log_to_stderr(f"kernel: {kernel or f'none for {device}'}")
    keep_freed_memory()
    plan = QUICK if quick else Plan()
    plan = replace(plan, tasks=tasks or plan.tasks, rounds=rounds or plan.rounds)
    with subject(options, backbone, plan.tasks) as (model, published), progress() as report:
        precision = choose_dtype(dtype, device)
        figures = measure(model, plan, dtype=precision, device=device, published=published, report=report)
    subject_fields = {
        "backbone": model.record.name,
        "dtype": str(precision).removeprefix("torch."),
        "kernel": (kernel and kernel.name) or "torch",
    }
    rows = [{**asdict(figure), **subject_fields} for figure in figures]
    print_rows(rows, options.fmt, ("figure", "median", "p10", "p90", "what"))
    if plot is not None:
        draw(figures, plot, title=f"{model.record.name}, {str(precision).removeprefix('torch.')}, {device}")
        log_to_stderr(f"drawn: {plot}")


@contextmanager
def subject(options: StoreOptions, name: str | None, count: int) -> Iterator[tuple[Backbone, Published | None]]:
    """Yield the backbone that is measured and, where the store has tasks on it, some of them."""
    from serving.benchmark.figures import Published
    from serving.runtime.device import choose_backbone
    from store.records.backbone import DEFAULT_BACKBONE
    from store.weights.backbones import load_backbone, open_backbone

    try:
        store = options.open()
    except StoreNotFoundError:
        log_to_stderr(f"no store at {options.url}: measuring {name or DEFAULT_BACKBONE} with random tasks")
        yield load_backbone(name or DEFAULT_BACKBONE), None
        return
    with store:
        record = choose_backbone(store, name)
        manifests = find_manifests(store, record.name, count)
        yield open_backbone(store, record), Published(store, manifests) if manifests else None


def find_manifests(store: Store, backbone: str, count: int) -> list[Manifest]:
    from store.records.listing import Search

    rows = store.search(Search(backbone=backbone), limit=count).rows
    return [store.resolve(f"{row.task}:{row.version}").manifest for row in rows]


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show the last line on a terminal, and nothing elsewhere."""
    console = terminal(stderr=True)
    with console.status("") as status:
        yield lambda line: status.update(line)


def draw(figures: Sequence[Figure], path: Path, *, title: str) -> None:
    """Draw each ratio as a dot with its 10th to 90th percentile, and a line at 1."""
    from matplotlib.figure import Figure as Picture

    from sls.plots.style import BLUE, GREY, ORANGE

    picture = Picture(figsize=(8, 0.55 * len(figures) + 1.2), layout="constrained")
    axes = picture.subplots()
    axes.axvline(1.0, color=GREY, linestyle="--", linewidth=1)
    for row, figure in enumerate(reversed(figures)):
        better = figure.figure == SHARE
        below, above = figure.median - figure.p10, figure.p90 - figure.median
        axes.errorbar(
            figure.median,
            row,
            xerr=[[below], [above]],
            color=ORANGE if better else BLUE,
            marker="s" if better else "o",
            capsize=3,
        )
        axes.annotate(f"{figure.median:.3g}", (figure.median, row), (0, 6), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(figures)), [figure.figure for figure in reversed(figures)])
    axes.set_ylim(-0.6, len(figures) - 0.2)
    axes.set_xscale("log")
    for axis in ("major", "minor"):
        getattr(axes.xaxis, f"set_{axis}_formatter")(lambda value, _: f"{value:g}")
    axes.set_xlabel("ratio: median, 10th to 90th percentile; ○ less is better, □ more is better")
    axes.set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, **({"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 144}))
