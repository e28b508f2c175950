"""The main job on embedded defaults, end to end: tune, cut, store, account, serve, and show."""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from rich.console import Console

from onetrunk.cli.output import print_table
from onetrunk.many.fit_job import FitJob
from onetrunk.many.fit_many import Watch, fit_many
from onetrunk.rendering.accuracy import percent
from onetrunk.rendering.html import to_html
from onetrunk.rendering.section import Section
from onetrunk.rendering.storage_report import sections
from onetrunk.rendering.tables import Record
from serving.benchmark.load import LoadRequest, LoadResult, run_load
from serving.config import ServeConfig
from serving.runtime.predictor import Predictor
from serving.server import running
from sls.choose_depth import ScoreConfig
from sls.data.dataset import Dataset
from sls.data.loading import load_dataset
from sls.pipeline.config import FitConfig
from sls.plots.depth_plot import draw_depths
from sls.training.recipe import TrainingConfig
from store.accounting.report import StorageReport, storage_report
from store.errors import ServerError
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store, Version
from store.weights.backbones import encode, load_backbone

CLIENTS = 4


@dataclass(frozen=True)
class Plan:
    """Which embedded tasks, how each is tuned, and how many images are sent to each afterwards."""

    tasks: tuple[str, ...]
    config: FitConfig
    limit: int | None
    """Images of each part of a dataset at most."""
    images_per_task: int
    rounds: int
    processes: bool
    """Tune in a process for each core, which take seconds to start."""
    compare: bool
    """Serve the uncut tasks too, beside the cut ones."""


WHOLE = Plan(
    ("digits", "letter", "slant", "position", "orientation"),
    FitConfig(tune=TrainingConfig(epochs=4), score=ScoreConfig(samples=250), retune=TrainingConfig(epochs=3)),
    limit=None,
    images_per_task=30,
    rounds=3,
    processes=True,
    compare=True,
)
"""Chosen for five tasks in some five minutes on 2 cores: 400 images each, and t-SNE of 250 points."""
QUICK = Plan(
    ("digits", "slant"),
    FitConfig(tune=TrainingConfig(epochs=2), score=ScoreConfig(criterion="cka"), retune=TrainingConfig(epochs=1)),
    limit=60,
    images_per_task=10,
    rounds=1,
    processes=False,
    compare=False,
)
"""Chosen for everything to happen once in under a minute, without t-SNE: the accuracies say nothing."""


@dataclass(frozen=True)
class Demo:
    """What the demo does, where it keeps its things, where it prints, and how it shows progress."""

    plan: Plan
    folder: Path
    out: Console
    err: Console
    watch: Callable[[Console, int], AbstractContextManager[Watch]]

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def full_store(self) -> Path:
        """The same tasks, uncut: what is served beside the cut ones for comparison."""
        return self.folder / "full-depth-store"


def run(demo: Demo, *, host: str, port: int, wait: Callable[[], None] | None) -> None:
    """Run the demo; with `wait`, the server stays up until that returns."""
    keep_freed_memory()
    folder, out, err = demo.folder, demo.out, demo.err
    tasks = {name: load_embedded(demo.plan, name) for name in demo.plan.tasks}
    with Store.open(demo.store, create=True) as store, Store.open(demo.full_store, create=True) as full_store:
        fit_tasks(demo, store, full_store)
        versions = [store.resolve(name) for name in tasks]
        rows, counted = task_rows(versions), storage_report(store)
    print_table(rows, title=f"{len(rows)} tasks on one {DEFAULT_BACKBONE}")
    storage = sections(counted)[0]
    print_table(storage.rows, title=storage.title)
    out.print(storage.text)
    picture = draw_picture(versions, folder / "depths")
    err.print(f"starting Ray Serve on {host}:{port} …")
    applications = {"/": ServeConfig(store=str(demo.store))}
    if demo.plan.compare:
        applications["/full-depth"] = ServeConfig(store=str(demo.full_store))
    with running(applications, host=host, port=port):
        served = serve_stream(demo, tasks, f"http://{host}:{port}")
        print_table(served.rows, title=served.title)
        out.print(served.text)
        page = folder / "report.html"
        page.write_text(page_of(rows, counted, served, picture.read_text("utf-8")), "utf-8")
        out.print(f"report: {page}\npicture: {picture}")
        if wait is not None:
            err.print(f"serving on http://{host}:{port}; Ctrl-C stops")
            wait()


def fit_tasks(demo: Demo, store: Store, full_store: Store) -> None:
    """Fit and publish each task that is not in the stores yet, as many at a time as there are cores."""
    backbone = load_backbone(DEFAULT_BACKBONE)
    for opened in (store, full_store):
        opened.add_backbone(backbone.record, encode(backbone))
    present = {version.task for version in store.versions()} & {version.task for version in full_store.versions()}
    for name in filter(present.__contains__, demo.plan.tasks):
        demo.err.print(f"{name}: in the store already")
    jobs = [
        FitJob(name, f"onetrunk/{name}", demo.plan.config, limit=demo.plan.limit)
        for name in demo.plan.tasks
        if name not in present
    ]
    if not jobs:
        return
    # One small model does not fill two cores, and t-SNE uses one: a task a core takes little more than half the time.
    workers = None if demo.plan.processes else 0
    with demo.watch(demo.err, len(jobs)) as watch, tempfile.TemporaryDirectory() as work:
        for outcome in fit_many(store, jobs, out=work, workers=workers, watch=watch):
            if outcome.problem is not None:
                raise ServerError(f"tuning {outcome.task} failed ({outcome.problem}): run the demo again")
            assert outcome.full is not None  # the demo tunes at full depth first
            full_store.publish(outcome.task, outcome.full)


def load_embedded(plan: Plan, name: str) -> Dataset:
    return load_dataset(f"onetrunk/{name}", limit=plan.limit)


def task_rows(versions: Sequence[Version]) -> list[Record]:
    """One row a task: what was decided, what it costs in accuracy and in bytes."""
    rows: list[Record] = []
    for version in versions:
        manifest = version.manifest
        assert manifest.certificate is not None
        assert manifest.certificate.full is not None  # the demo tunes at full depth first
        rows.append(
            {
                "task": version.task,
                "classes": manifest.head.classes,
                "depth": f"{manifest.depth} of {manifest.prune_index.blocks}",
                "accuracy, all blocks": percent(manifest.certificate.full),
                "cut, before retuning": percent(manifest.certificate.cut_before_retune),
                "cut": percent(manifest.certificate.cut),
                "nbytes": version.nbytes,
            }
        )
    return rows


def draw_picture(versions: Sequence[Version], stem: Path) -> Path:
    """Draw every task's scores, threshold, cut and certified accuracy; return the SVG."""
    certificates = {v.task: v.manifest.certificate for v in versions if v.manifest.certificate is not None}
    return draw_depths({v.task: v.manifest.prune_index for v in versions}, stem, certificates=certificates)


def serve_stream(demo: Demo, tasks: dict[str, Dataset], url: str) -> Section:
    """Send the same mixed stream to the cut tasks and, to compare, to the uncut ones in turn."""
    samples = draw_samples(tasks, demo.plan.images_per_task)
    demo.err.print(
        f"sending {len(samples)} test images of {len(tasks)} tasks from {CLIENTS} clients, {demo.plan.rounds} rounds"
    )
    paths = ("", "/full-depth") if demo.plan.compare else ("",)
    for path in paths:
        run_load(url + path, samples[: 8 * CLIENTS], clients=CLIENTS)
    rounds = [[run_load(url + path, samples, clients=CLIENTS) for path in paths] for _ in range(demo.plan.rounds)]
    cut, *full = map(list, zip(*rounds, strict=True))
    rows = [outcome_row("each at its depth", cut), *(outcome_row("all at full depth", each) for each in full)]
    text = " ".join([*(compare_speed(cut, each) for each in full), compare_offline(demo, cut[0])])
    return Section("Served over HTTP", text, rows)


def compare_speed(cut: Sequence[LoadResult], full: Sequence[LoadResult]) -> str:
    ratios = sorted(c.images_per_second / f.images_per_second for c, f in zip(cut, full, strict=True))
    return (
        f"Cut tasks answer {statistics.median(ratios):.2f} times as many images a second "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f} over {len(ratios)} rounds)."
    )


def compare_offline(demo: Demo, outcome: LoadResult) -> str:
    """Answer the same images in process and say how far the server's answers are from those."""
    with Store.open(demo.store) as store, Predictor(store) as predictor:
        offline = [predictor.predict(reply.request.ref, reply.request.image) for reply in outcome.replies]
    served = [reply.prediction for reply in outcome.replies]
    pairs = [(one.top(1)[0], other.top(1)[0]) for one, other in zip(served, offline, strict=True)]
    same = sum(one.label == other.label for one, other in pairs)
    apart = max(abs(one.score - other.score) for one, other in pairs)
    return f"In process, {same} of {len(pairs)} images get the same label; scores differ by at most {apart:.2g}."


def outcome_row(name: str, outcomes: Sequence[LoadResult]) -> Record:
    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    return {
        "stream": name,
        "accuracy as served": f"{outcomes[0].accuracy:.1%}",
        "images a second": median([outcome.images_per_second for outcome in outcomes]),
        "p50 ms": median([1000 * outcome.latency_s(0.5) for outcome in outcomes]),
        "p99 ms": median([1000 * outcome.latency_s(0.99) for outcome in outcomes]),
    }


def draw_samples(tasks: dict[str, Dataset], images_per_task: int) -> list[LoadRequest]:
    """Take test images of every task, encoded as PNG, in one mixed order that is the same each time."""
    samples = []
    for name, task in tasks.items():
        for index in range(min(images_per_task, len(task.test))):
            out = BytesIO()
            task.test.image(index).save(out, "PNG")
            samples.append(LoadRequest(name, out.getvalue(), task.classes[task.test.labels[index]]))
    random.Random(0).shuffle(samples)
    return samples


def page_of(rows: Sequence[Record], counted: StorageReport, served: Section, svg: str) -> str:
    return to_html(
        f"onetrunk: {len(rows)} tasks, one backbone",
        f"Tuned, cut, stored and served by `onetrunk demo` with Python {sys.version.split()[0]}.",
        [
            Section("Tasks", "Accuracy is on held-out test images that chose nothing.", rows),
            Section(
                "Where SLS cuts",
                "The scan starts at the top block and stops at the first score below the dashed threshold; "
                "the block above that one is the last that is kept.",
                svg=svg,
            ),
            served,
            *sections(counted),
        ],
    )
