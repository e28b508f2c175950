"""Whether the engine's speed depends on the allocator: glibc's, as onetrunk sets it, over jemalloc's.

Each allocator has processes of its own, started in turn, which run the same mixed batch of LoRA tasks; glibc's with its
own settings is measured beside them. jemalloc is preloaded from --library (Debian: libjemalloc2). Prints the ratios of
the processes' medians with their spread; JSON in benchmarks/results/allocators.json.

    python -m benchmarks.engine.allocators
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from ctypes.util import find_library

import torch

from benchmarks.support.figures import Goal, conclude, machine, spread_of_ratios, spread_text
from benchmarks.support.models import random_vit_base
from benchmarks.support.options import make_parser
from benchmarks.support.processes import run_json
from serving.benchmark.subjects import Run, interleave, random_task
from serving.engine.engine import Engine
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import load_backbone

WAYS = ("glibc", "jemalloc", "glibc as it comes")


def main() -> None:
    options = parse()
    if options.run is not None:
        print(json.dumps(seconds_of(options.run, tuned=options.tuned, rounds=options.rounds)))
        return
    spreads, goals = {}, []
    for backbone in ("embedded",) if options.embedded else ("embedded", "ViT-B/16"):
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.processes):
            for way in WAYS:
                seconds[way].append(in_a_process(backbone, way, options))
        ratios = {
            f"{way} / jemalloc": spread_of_ratios(seconds[way], seconds["jemalloc"])
            for way in WAYS
            if way != "jemalloc"
        }
        spreads[backbone] = ratios
        for name, ratio in ratios.items():
            print(f"{backbone:<9} {name:<29} {spread_text(ratio)}")
        measured = ratios["glibc / jemalloc"]["median"]
        goals.append(Goal(f"{backbone}: glibc's allocator / jemalloc", measured, 1.05, most=True))
    conclude(options.out, {"machine": machine(), "torch": torch.__version__, "ratios": spreads}, goals)


def in_a_process(backbone: str, way: str, options: argparse.Namespace) -> float:
    base = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    if way == "jemalloc":
        base["LD_PRELOAD"] = options.library
    tuned = ["--tuned"] if way == "glibc" else []
    module = "benchmarks.engine.allocators"
    return float(run_json(module, "--run", backbone, "--rounds", str(options.rounds), *tuned, base=base))


@torch.inference_mode()
def seconds_of(name: str, *, tuned: bool, rounds: int) -> float:
    """Return the median seconds of a mixed batch of 8 tasks at full depth, after the rounds that do not count."""
    if tuned:
        keep_freed_memory()
    backbone = load_backbone(DEFAULT_BACKBONE) if name == "embedded" else random_vit_base()
    p, engine = backbone.record.id.preprocessing, Engine(backbone, dtype=torch.bfloat16)
    tasks = [random_task(backbone, dtype=torch.bfloat16, device="cpu", seed=seed) for seed in range(8)]
    images = torch.randn(8, 3, p.height, p.width)
    subjects: dict[str, Run] = {"batch": lambda: engine.forward(images, tasks)}
    return statistics.median(interleave(subjects, rounds, "cpu", lambda _: None)["batch"])


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="allocators.json")
    parser.add_argument("--library", default=find_library("jemalloc"), help="jemalloc's shared library")
    parser.add_argument("--processes", type=int, default=7, help="of each allocator")
    parser.add_argument("--rounds", type=int, default=11, help="batches in each process")
    parser.add_argument("--embedded", action="store_true", help="leave out ViT-B/16")
    parser.add_argument("--run", choices=("embedded", "ViT-B/16"), help=argparse.SUPPRESS)
    parser.add_argument("--tuned", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.library is None and options.run is None:
        parser.error(
            "jemalloc is not found: install it (Debian: apt-get install libjemalloc2) or name it with --library"
        )
    return options


if __name__ == "__main__":
    main()
