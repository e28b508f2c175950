"""The trainings that `cut_evidence` and `cut_methods` report on: each is done once, kept as a file, and found again.

`full-s0`: tuned at full depth, seed 0. `after-d4-s0`: that model cut to depth 4 and tuned again. `before-d4-s0`: tuned
at depth 4 from the start; `before-d4-s0-dora` with the method and the rate that suits it. `frozen`: no training. Every
run keeps what it measured as JSON; `full` and `frozen` also keep the features of every block, from which criteria
decide, and a run with a method keeps its accuracy with what it stores rounded to 16 bits.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from benchmarks.support.options import RESULTS
from sls.adapters.methods import METHODS
from sls.adapters.model import TunedModel, build_vit, linear
from sls.adapters.task_folder import read_folder, write_folder
from sls.data.dataset import Dataset, Split
from sls.data.embedded import EMBEDDED, render
from sls.data.loading import load_dataset
from sls.evaluation import accuracy_of
from sls.pipeline.retune import truncated, untrained
from sls.progress import Progress
from sls.scoring.features import BlockFeatures, block_features
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.adapters.checkpoint import WEIGHTS
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import Backbone, load_backbone
from store.weights.preprocessing import make_transform

NAME = re.compile(r"(?P<kind>full|after|before|frozen)(-d(?P<depth>\d+))?(-s(?P<seed>\d+))?(-(?P<method>[a-z0-9+]+))?")
PARTS = ("train", "validation", "test")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TrainingPlan:
    """How many images each task has, and for how many epochs it is trained; a folder holds runs of one plan."""

    train: int = 400
    validation: int = 200
    test: int = 1000
    epochs: int = 8
    retune_epochs: int = 5
    backbone: str = DEFAULT_BACKBONE


QUICK = TrainingPlan(train=60, validation=30, test=60, epochs=1, retune_epochs=1)
"""To see that everything runs, not to learn anything from."""


def add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=RESULTS / "cut_runs", help="where trainings are kept")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--images", type=int, default=TrainingPlan.train, help="of training")
    parser.add_argument("--test", type=int, default=TrainingPlan.test, help="images")
    parser.add_argument("--epochs", type=int, default=TrainingPlan.epochs, help="of a training from the start")
    parser.add_argument("--quick", action="store_true", help="few images and one epoch: to see that it runs")
    add_tasks(parser)


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose tasks; `sources` reads them."""
    parser.add_argument("--task", action="append", choices=EMBEDDED, help="only this embedded one; may be repeated")
    parser.add_argument("--data", type=Path, help="folder of .npz tasks beside the embedded ones")


def sources(options: argparse.Namespace) -> list[str]:
    """Return what `load` takes, one for each task that the options choose."""
    files = sorted(options.data.glob("*.npz")) if options.data else []
    return [f"onetrunk/{name}" for name in options.task or EMBEDDED] + [str(path) for path in files]


def plan_of(options: argparse.Namespace) -> TrainingPlan:
    """Write the plan that the options choose into their folder; exit where the runs there are of another."""
    asked = TrainingPlan(train=options.images, test=options.test, epochs=options.epochs)
    plan, folder = QUICK if options.quick else asked, options.folder
    path, encoded = folder / "plan.json", json.dumps(asdict(plan))
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() != encoded:
        raise SystemExit(f"{folder} has runs of {path.read_text()}, not of {encoded}: give another --folder")
    path.write_text(encoded)
    return plan


@dataclass(frozen=True)
class Run:
    """One training of one task; `source` is what `sls.data.loading.load_dataset` takes."""

    source: str
    name: str

    @property
    def task(self) -> str:
        return Path(self.source).stem

    def file(self, folder: Path, suffix: str) -> Path:
        return folder / self.task / f"{self.name}{suffix}"


def find(run: Run, folder: Path) -> dict[str, object] | None:
    """Return what a run measured, None where it has not been done."""
    path = run.file(folder, ".json")
    return dict(json.loads(path.read_text())) if path.exists() else None


def features_of(run: Run, folder: Path) -> dict[str, BlockFeatures]:
    """Return the features of a `full` or `frozen` run, by part."""
    with np.load(run.file(folder, ".npz")) as arrays:
        return {part: BlockFeatures(arrays[f"{part}_scored"], arrays[f"{part}_served"]) for part in PARTS}


def labels_of(source: str, folder: Path) -> dict[str, npt.NDArray[np.int64]]:
    """Return the classes of a task's images, by part."""
    with np.load(folder / Path(source).stem / "labels.npz") as arrays:
        return {part: arrays[part] for part in PARTS}


def load(source: str, plan: TrainingPlan) -> Dataset:
    """Load a task; embedded ones are drawn in the numbers of the plan, others are limited to them."""
    task = load_dataset(source)
    wanted = {"train": plan.train, "validation": plan.validation, "test": plan.test}
    if source.startswith("onetrunk/"):
        parts = {part: Split(*render(task.name, part, count)) for part, count in wanted.items()}
    else:
        parts = {part: _first(getattr(task, part), count) for part, count in wanted.items()}
    return Dataset(task.name, task.classes, *(parts[part] for part in PARTS))


def _first(split: Split, count: int) -> Split:
    rows = split.content_order()[:count]
    return Split(tuple(split.images[row] for row in rows), split.labels[rows])


def do(run: Run, plan: TrainingPlan, folder: Path) -> None:
    """Do a run unless it is there; what it depends on must be."""
    if find(run, folder) is not None:
        return
    torch.set_num_threads(1)
    run.file(folder, ".json").parent.mkdir(parents=True, exist_ok=True)
    backbone, task = load_backbone(plan.backbone), load(run.source, plan)
    began = time.process_time()
    tuned = _tuned(run, task, backbone, plan, folder)
    seconds = time.process_time() - began
    kept: dict[str, object] = {"task": run.task, "run": run.name, "classes": len(task.classes), "cpu_seconds": seconds}
    transform = make_transform(backbone.record.id.preprocessing)
    if tuned is None:
        vit = build_vit(backbone, backbone.record.blocks)
    else:
        write_folder(run.file(folder, ""), backbone, tuned, task.classes)
        kept["adapter_parameters"] = sum(tensor.numel() for tensor in tuned.adapter.values())
        kept["adapter_nbytes"] = (run.file(folder, "") / WEIGHTS).stat().st_size
        vit = read_folder(run.file(folder, ""), backbone, depth=tuned.depth).vit
    whole = run.name.startswith(("full", "frozen"))
    found = {part: block_features(vit, getattr(task, part), transform) for part in (PARTS if whole else PARTS[1:])}
    if tuned is not None:
        for part in ("validation", "test"):
            labels = getattr(task, part).labels
            kept[part] = [_accuracy(view, tuned, labels) for view in found[part].served]
    if tuned is not None and run.name.endswith(tuple(METHODS)):
        kept["stored"] = stored_accuracies(tuned, backbone, task.classes, task.test)
    if whole:
        arrays = {f"{part}_{view}": getattr(found[part], view) for part in PARTS for view in ("scored", "served")}
        np.savez(run.file(folder, ".npz"), **arrays)
    np.savez(folder / run.task / "labels.npz", **{part: getattr(task, part).labels for part in PARTS})
    temporary = run.file(folder, ".partial")
    temporary.write_text(json.dumps(kept))
    temporary.rename(run.file(folder, ".json"))


def stored_accuracies(
    tuned: TunedModel, backbone: Backbone, classes: tuple[str, ...], split: Split
) -> dict[str, float]:
    """Return the accuracy with adapter and head as stored, by dtype."""
    transform, found = make_transform(backbone.record.id.preprocessing), {}
    with TemporaryDirectory() as scratch:
        for name, dtype in DTYPES.items():
            write_folder(Path(scratch) / name, backbone, tuned, classes, dtype=dtype)
            model = read_folder(Path(scratch) / name, backbone, depth=tuned.depth)
            found[name] = accuracy_of(model, split, transform).value
    return found


def _tuned(run: Run, task: Dataset, backbone: Backbone, plan: TrainingPlan, folder: Path) -> TunedModel | None:
    match = NAME.fullmatch(run.name)
    assert match is not None, run.name
    if match["kind"] == "frozen":
        return None
    seed, depth = int(match["seed"]), int(match["depth"] or backbone.record.blocks)
    recipe = TrainingConfig(
        epochs=plan.retune_epochs if match["kind"] == "after" else plan.epochs,
        seed=seed,
        method=match["method"] or "lora",
    )
    start = untrained(task, backbone, recipe, depth)
    if match["kind"] == "after":
        start = truncated(_read(Run(run.source, f"full-s{seed}"), recipe, folder), depth)
    transform = make_transform(backbone.record.id.preprocessing)
    tuned = tune(task, backbone, start, recipe, transform=transform, stage=run.name, progress=_silent)
    if match["kind"] == "full":
        tensors = {f"adapter.{key}": value for key, value in tuned.adapter.items()}
        save_file({**tensors, "weight": tuned.weight, "bias": tuned.bias}, run.file(folder, ".safetensors"))
    return tuned


def _read(run: Run, recipe: TrainingConfig, folder: Path) -> TunedModel:
    tensors = load_file(run.file(folder, ".safetensors"))
    adapter = {key.removeprefix("adapter."): value for key, value in tensors.items() if key.startswith("adapter.")}
    depth = len({key.split(".blocks.")[1].split(".")[0] for key in adapter})
    return TunedModel(depth, recipe.rank, adapter, tensors["weight"], tensors["bias"])


def _accuracy(features: npt.NDArray[np.float32], tuned: TunedModel, labels: npt.NDArray[np.int64]) -> float:
    logits = linear(tuned.weight, tuned.bias)(torch.from_numpy(features))
    return float((logits.argmax(dim=1).numpy() == labels).mean())


def _silent(_progress: Progress) -> None:
    pass
