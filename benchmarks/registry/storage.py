"""What 1,000 ViT-B/16 tasks take, every file counted, and how long a report on 1,000 tasks with 10 versions takes.

Random weights do: bytes do not depend on their values. Each setting is a store of its own, with the backbone's weights
in it and LoRAs of rank 8 that are cut after 4 to 12 of 12 blocks, 8 on average; its report is compared with 1,000 full
float32 copies. The last store has small tasks on the packaged backbone; `onetrunk report` runs on it in a fresh
process, once to warm the caches of the system and then --runs times. Prints a table; JSON in
benchmarks/results/registry_storage.json.

    python -m benchmarks.registry.storage
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.support.figures import Goal, conclude, machine, spread
from benchmarks.support.models import random_vit_base
from benchmarks.support.options import add_store_folder, make_parser, settings_of
from benchmarks.support.tasks import lora_files
from store.accounting.report import StorageReport, storage_report
from store.adapters.checkpoint import parse_checkpoint
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.publish import PublishOptions
from store.registry.store import Store
from store.weights.backbones import Backbone, encode, load_backbone

ATTENTION = ("attn.qkv", "attn.proj")
EVERY = (*ATTENTION, "mlp.fc1", "mlp.fc2")
MOST_SHARE, MOST_METADATA, MOST_S = 0.005, 0.02, 2.0


@dataclass(frozen=True)
class Setting:
    """What each task adapts, and in which type it is stored."""

    name: str
    kinds: tuple[str, ...]
    dtype: torch.dtype


SETTINGS = {
    "attention": Setting("attention, float32", ATTENTION, torch.float32),
    "every-bf16": Setting("every linear map, bfloat16", EVERY, torch.bfloat16),
    "every": Setting("every linear map, float32", EVERY, torch.float32),
}
"""The goals are for the first, what LoRA adapts by its paper; the others show what more adapters cost."""


def main() -> None:
    options = parse()
    settings = [measure(SETTINGS[name], options) for name in options.settings]
    times = time_reports(options)
    goals = []
    if options.settings[:1] == ["attention"]:
        first = settings[0]
        goals += [
            Goal("share of full float32 copies", first["share_of_full_copies"], MOST_SHARE, most=True),
            Goal("metadata over payload", first["metadata_over_payload"], MOST_METADATA, most=True),
        ]
    goals.append(Goal("report, seconds of processor time", statistics.median(times["cpu_s"]), MOST_S, most=True))
    goals.append(Goal("report, seconds on the wall", statistics.median(times["wall_s"]), MOST_S, most=True))
    measured = {
        "settings": settings,
        "report": {**times, "wall": spread(times["wall_s"]), "cpu": spread(times["cpu_s"])},
    }
    conclude(options.out, {"machine": machine(), "options": settings_of(options, "where", "store"), **measured}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="registry_storage.json")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=20, help="of each ViT-B/16 task: its head")
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--small-tasks", type=int, default=1000, help="in the store whose report is timed")
    parser.add_argument("--versions", type=int, default=10, help="of each task of that store")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--store", type=Path, help="a store made before, whose report is timed instead of a new one")
    add_store_folder(parser)
    return parser.parse_args()


def measure(setting: Setting, options: argparse.Namespace) -> dict[str, object]:
    backbone = random_vit_base()
    with tempfile.TemporaryDirectory(dir=options.where) as folder, Store.open(Path(folder) / "s", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for number in range(options.tasks):
            depth = 4 + number % 9
            files = lora_files(
                backbone, depth=depth, classes=options.classes, dtype=setting.dtype, seed=number, kinds=setting.kinds
            )
            publish(store, f"team-{number % 7}/task-{number:04}", backbone, files, depth)
        report = storage_report(store)
    return figures(setting, report)


def figures(setting: Setting, report: StorageReport) -> dict[str, object]:
    full = report.comparison.form("full_copies_fp32").nbytes
    share, metadata = report.total_nbytes / full, report.metadata_nbytes / report.payload_nbytes
    print(f"{setting.name:<28} {report.total_nbytes / 1e9:.3f} GB of {full / 1e9:.1f} GB = {share:.3%}; "
          f"metadata {metadata:.2%} of payload; mean depth {report.mean_depth:.2f}")  # fmt: skip
    return {
        "setting": setting.name,
        "tasks": len(report.tasks),
        "mean_depth": report.mean_depth,
        "physical_nbytes": report.total_nbytes,
        "payload_nbytes": report.payload_nbytes,
        "metadata_nbytes": report.metadata_nbytes,
        "backbone_nbytes": report.backbones[0].weights_nbytes,
        "share_of_full_copies": share,
        "metadata_over_payload": metadata,
        "forms": {
            form.name: {"nbytes": form.nbytes, "from": form.break_even_tasks} for form in report.comparison.forms
        },
    }


def publish(store: Store, task: str, backbone: Backbone, files: dict[str, bytes], depth: int) -> None:
    options = PublishOptions(backbone=backbone.record.name, depth=depth)
    store.publish_checkpoint(task, parse_checkpoint(files), where=task, options=options)


def time_reports(options: argparse.Namespace) -> dict[str, list[float]]:
    """Run the command on a store of many small versions: its seconds on the wall and of the processor."""
    if options.store is None:
        with tempfile.TemporaryDirectory(dir=options.where) as folder:
            make_small(Path(folder) / "s", options.small_tasks, options.versions)
            runs = [run(Path(folder) / "s") for _ in range(options.runs + 1)][1:]
    else:
        runs = [run(options.store) for _ in range(options.runs + 1)][1:]
    wall, cpu = ([run[index] for run in runs] for index in (0, 1))
    print(f"report on {options.small_tasks} x {options.versions} versions: wall {spread(wall)}, cpu {spread(cpu)} s")
    return {"wall_s": wall, "cpu_s": cpu}


def make_small(root: Path, tasks: int, versions: int) -> None:
    """Make the store whose report is timed."""
    backbone = load_backbone(DEFAULT_BACKBONE)
    with Store.open(root, create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for number in range(tasks * versions):
            task, depth = number % tasks, 1 + number % 4
            files = lora_files(backbone, rank=1, depth=depth, classes=4, seed=number, kinds=("attn.qkv",))
            publish(store, f"team-{task % 7}/task-{task:04}", backbone, files, depth)


def run(store: Path) -> tuple[float, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "onetrunk", "report", "--store", str(store)]
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
