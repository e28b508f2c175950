"""Depth against width, and both, at the same operations: accuracy, milliseconds in the engine, bytes of the index.

Each task is tuned once at full depth and width. Then, for each share of the blocks' operations, it is cut in depth,
pruned in width by each criterion, and both together, and tuned again with one recipe; `one shot` is the accuracy
before that. Accuracies are of test images, with the ends of their 95 % interval. The time is that of a batch of rows
of this task in the engine, over the same batch of the whole task in the same rounds, in float32 (torch) and in
bfloat16 (the engine's own kernel, where the machine can run it). Every run is kept in --folder and found again; the
second table has the means over the tasks, with intervals. `--way tokens-vit-slim` and `tokens-taylor` leave out patches
alone, this share of them staying over all blocks; `--way groups-slimming` and the like keep units in groups of 32.
`--way torch-pruning` is that tool's own result (`pip install torch-pruning==1.6.1`): the tuned task, merged, pruned by
its recipe and tuned again; its time is that of the pruned model in timm, its bytes are its file's.

    python -m benchmarks.sls.width
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.sls.cut_runs import QUICK, TrainingPlan, load
from benchmarks.sls.width_report import DTYPES, PEER, Row, goals, kept_rows, means, print_means, print_rows
from benchmarks.support.figures import conclude, machine
from benchmarks.support.options import RESULTS, make_parser, settings_of
from serving.engine.engine import Engine
from sls.adapters.model import TunedModel
from sls.adapters.task_folder import write_folder
from sls.data.dataset import Dataset
from sls.data.embedded import EMBEDDED
from sls.evaluation import accuracy_of, train_features
from sls.pipeline.retune import CutModel, TrainingContext, rewind, truncated, untrained
from sls.pipeline.width_fit import WidthFit, adapted, prune, search
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from sls.width.search import CRITERIA, GROUP, OF_TOKENS, WidthConfig
from store.adapters.checkpoint import CARD, CONFIG, HEAD, LABELS, WEIGHTS
from store.records.evidence import Accuracy, PruneIndex
from store.weights.backbones import Backbone, load_backbone
from store.weights.converted.merge import merge, with_head
from store.weights.forms import TaskWeights
from store.weights.lowering.lower import lower
from store.weights.preprocessing import make_transform
from store.weights.width import kept_of

SHARES = (0.5, 0.66, 0.8)
WAYS = ("depth", *CRITERIA, "both")
TOKENS = "tokens-"  # of patches alone, at full depth and width
GROUPS = "groups-"  # of neighbouring units, which stay or go together
TOKEN_WAYS = tuple(TOKENS + criterion for criterion in OF_TOKENS)
GROUP_WAYS = tuple(GROUPS + criterion for criterion in CRITERIA)
ROWS = 16


@dataclass(frozen=True)
class Job:
    """One task, tuned at full depth and width, and where what was measured is kept."""

    task: str
    dataset: Dataset
    backbone: Backbone
    full: TunedModel
    recipe: TrainingConfig
    retune: TrainingConfig
    search_epochs: int
    folder: Path
    whole: Accuracy

    @property
    def context(self) -> TrainingContext:
        transform = make_transform(self.backbone.record.id.preprocessing)
        return TrainingContext(self.dataset, self.backbone, transform, _silent)


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    os.nice(options.nice)
    asked = TrainingPlan(
        train=options.images, test=options.test, epochs=options.epochs, retune_epochs=options.retune_epochs
    )
    plan = QUICK if options.quick else asked
    options.folder.mkdir(parents=True, exist_ok=True)
    tasks, rows = options.task or list(EMBEDDED), []
    for task in () if options.report else tasks:
        job = tuned_job(task, plan, options)
        for share in options.share:
            rows += [kept(job, way, share) for way in options.way]
        conclude(options.out, report_of(rows, options), goals(rows))
    if options.report:
        rows = kept_rows(options.folder, tasks, options.share, options.way)
        conclude(options.out, report_of(rows, options), goals(rows))
    print_rows(rows)
    print_means(rows)


def report_of(rows: list[Row], options: argparse.Namespace) -> dict[str, object]:
    settings = json.loads(json.dumps(settings_of(options), default=str))
    return {"machine": machine(), "settings": settings, "rows": rows, "means": means(rows)}


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="width.json")
    parser.add_argument("--folder", type=Path, default=RESULTS / "width_runs", help="where runs are kept")
    parser.add_argument("--task", action="append", choices=EMBEDDED, help="only this one; may be repeated")
    parser.add_argument("--share", type=float, nargs="+", default=SHARES)
    parser.add_argument("--way", nargs="+", choices=(*WAYS, *TOKEN_WAYS, *GROUP_WAYS, PEER), default=WAYS)
    parser.add_argument("--images", type=int, default=TrainingPlan.train, help="of training")
    parser.add_argument("--test", type=int, default=TrainingPlan.test, help="images")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--retune-epochs", type=int, default=5)
    parser.add_argument("--search-epochs", type=int, default=3)
    parser.add_argument("--nice", type=int, default=0, help="added to the niceness of this process")
    parser.add_argument("--report", action="store_true", help="train nothing: report what is there")
    parser.add_argument("--quick", action="store_true", help="few images and one epoch: to see that it runs")
    return parser.parse_args()


def tuned_job(task: str, plan: TrainingPlan, options: argparse.Namespace) -> Job:
    """Tune the task at full depth and width, or go on from the checkpoint of an earlier run."""
    dataset, backbone = load(f"onetrunk/{task}", plan), load_backbone(plan.backbone)
    recipe = TrainingConfig(epochs=plan.epochs)
    folder = options.folder / task
    folder.mkdir(exist_ok=True)
    transform = make_transform(backbone.record.id.preprocessing)
    start = untrained(dataset, backbone, recipe)
    saved = folder / "full.safetensors"
    full = tune(dataset, backbone, start, recipe, transform=transform, stage=task, progress=_silent, checkpoint=saved)
    retune = TrainingConfig(epochs=plan.retune_epochs)
    search_epochs = 1 if options.quick else options.search_epochs
    whole = accuracy_of(adapted(full, backbone), dataset.test, transform)
    return Job(task, dataset, backbone, full, recipe, retune, search_epochs, folder, whole)


def kept(job: Job, way: str, share: float) -> Row:
    """Return what was measured of a way at a share, after measuring it where it is not known."""
    path = job.folder / f"{way}-{share:g}.json"
    if not path.exists():
        row = measure_peer(job, share) if way == PEER else measure(job, way, share)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(row))
        partial.rename(path)
        print(job.task, way, share, row["accuracy"], flush=True)
    return dict(json.loads(path.read_text()))


def measure(job: Job, way: str, share: float) -> Row:
    began = time.process_time()
    index, tuned, one_shot, test, operations = by_depth(job, share) if way == "depth" else by_width(job, way, share)
    seconds = time.process_time() - began
    low, high = test.interval
    weights, nbytes = weights_of(job, index, tuned)
    return {
        "task": job.task,
        "share": share,
        "way": way,
        "operations": operations,
        "depth": index.depth,
        "heads_kept": index.width and index.width.heads_kept,
        "units_kept": index.width and index.width.units_kept,
        "accuracy": 100 * test.value,
        "low": 100 * low,
        "high": 100 * high,
        "one_shot": 100 * one_shot.value,
        "whole": 100 * job.whole.value,
        **times(job, weights),
        "patches_kept": index.tokens and index.tokens.patches_kept,
        "index_nbytes": 1 + sum(part.nbytes for part in (index.width, index.tokens) if part),
        "adapter_nbytes": nbytes,
        "cpu_seconds": seconds,
    }


def measure_peer(job: Job, share: float) -> Row:
    from benchmarks.sls.width_peer import prune_and_tune

    began = time.process_time()
    weights, _ = weights_of(job, PruneIndex(job.full.depth, job.full.depth, "none"), job.full)
    merged = with_head(merge(job.backbone, weights), weights)
    transform = job.context.transform
    made = prune_and_tune(merged, job.dataset.train, job.dataset.test, transform, share, job.retune)
    seconds = time.process_time() - began
    low, high = made.test.interval
    return {
        "task": job.task,
        "share": share,
        "way": PEER,
        "operations": made.operations,
        "accuracy": 100 * made.test.value,
        "low": 100 * low,
        "high": 100 * high,
        "one_shot": 100 * made.one_shot.value,
        "whole": 100 * job.whole.value,
        **times(job, made.model),
        "index_nbytes": 0,
        "adapter_nbytes": made.nbytes,
        "cpu_seconds": seconds,
    }


def by_depth(job: Job, share: float) -> tuple[PruneIndex, TunedModel, Accuracy, Accuracy, float]:
    blocks, context = job.backbone.record.blocks, job.context
    depth = max(1, round(share * blocks))
    cut = truncated(job.full, depth)
    one_shot = accuracy_of(adapted(cut, job.backbone), job.dataset.test, context.transform)
    features = train_features(adapted(cut, job.backbone).vit, job.dataset, context.transform, samples=1)
    tuned = rewind(CutModel(job.full, depth, job.retune, features, context), job.folder / f"depth-{depth}.safetensors")
    test = accuracy_of(adapted(tuned, job.backbone), job.dataset.test, context.transform)
    return PruneIndex(depth, blocks, "depth"), tuned, one_shot, test, depth / blocks


def by_width(job: Job, way: str, share: float) -> tuple[PruneIndex, TunedModel, Accuracy, Accuracy, float]:
    run = fit_of(job, way, share)
    made = prune(run, search(run), run.width.budget, run.width.tokens)
    return made.index, made.tuned, made.before, made.test, made.share


def fit_of(job: Job, way: str, share: float) -> WidthFit:
    """Return how a way prunes; the scores that `search` finds are kept in the job's folder."""
    criterion = "taylor" if way == "both" else way.removeprefix(TOKENS).removeprefix(GROUPS)
    group = GROUP if way in GROUP_WAYS else 1
    config = WidthConfig(criterion, share, epochs=job.search_epochs, with_depth=way == "both", unit_group=group)
    if way in TOKEN_WAYS:
        config = replace(config, budget=1.0, tokens=share)

    def checkpoint(name: str) -> Path:
        shared = name == "importance" and way not in TOKEN_WAYS
        return job.folder / f"{criterion if shared else way}-{name}.safetensors"

    return WidthFit(job.context, job.full, job.recipe, job.retune, "rewind", config, checkpoint)


def weights_of(job: Job, index: PruneIndex, tuned: TunedModel) -> tuple[TaskWeights, int]:
    """Return a task as the engine has it, and the bytes of its adapter at rest."""
    backbone = job.backbone.narrow(index.width)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder, backbone, tuned, job.dataset.classes)
        config, adapter, head, labels = ((folder / file).read_bytes() for file in (CONFIG, WEIGHTS, HEAD, LABELS))
        assert not (folder / CARD).exists()
    weights = lower(
        config=config, adapter=adapter, head=head, labels=labels, depth=index.depth, backbone=backbone.tensors
    )
    forms = replace(weights.forms, kept=kept_of(index.width), tokens=index.tokens)
    return replace(weights, forms=forms), len(adapter)


def times(job: Job, subject: TaskWeights | nn.Module, rounds: int = 9) -> dict[str, float]:
    """Milliseconds of a batch of a task or a model, and over those of the whole task, in turn, by dtype."""
    whole, _ = weights_of(job, PruneIndex(job.full.depth, job.full.depth, "none"), job.full)
    size = job.backbone.record.id.preprocessing
    found: dict[str, float] = {}
    for name in DTYPES:
        dtype = getattr(torch, name)
        engine, images = Engine(job.backbone, dtype=dtype), torch.randn(ROWS, 3, size.height, size.width, dtype=dtype)
        runs = [runner(engine, images, each) for each in (subject, whole)]
        pairs = [[_seconds(run) for run in runs] for _ in range(rounds + 1)][1:]
        ratios = sorted(one / other for one, other in pairs)
        found |= {
            f"{name}_milliseconds": 1000 * statistics.median(one for one, _ in pairs),
            f"{name}_over_whole": statistics.median(ratios),
            f"{name}_over_whole_low": ratios[0],
            f"{name}_over_whole_high": ratios[-1],
        }
    return found


def runner(engine: Engine, images: torch.Tensor, subject: TaskWeights | nn.Module) -> Callable[[], object]:
    """Return the call that answers the images, with what is done once done before it."""
    if isinstance(subject, nn.Module):
        return partial(copy.deepcopy(subject).to(images.dtype), images)
    return partial(engine.forward, images, [engine.prepare(subject)] * len(images))


@torch.inference_mode()
def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _silent(_: object) -> None:
    pass


if __name__ == "__main__":
    main()
