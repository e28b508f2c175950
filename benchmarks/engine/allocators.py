"""Whether the engine's speed depends on the allocator: glibc's, as onetrunk sets it, over jemalloc's.

Each is a process of its own, started in turn; both run the same mixed batch of LoRA tasks. jemalloc is preloaded from
--library (Debian: libjemalloc2). Beside them glibc's allocator as it comes. Prints the ratios of the processes' medians
with their spread; JSON in benchmarks/results/allocators.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from ctypes.util import find_library
from pathlib import Path

import torch

from benchmarks.support.figures import RESULTS, Goal, machine, print_goals, spread, write
from benchmarks.support.models import random_vit_base
from serving.benchmark.subjects import random_task
from serving.engine.engine import Engine
from store.malloc import keep_freed_memory
from store.weights.backbones import DEFAULT_BACKBONE, load_backbone

WAYS = ("glibc", "jemalloc", "glibc as it comes")


def main() -> None:
    options = parse()
    if options.run is not None:
        print(json.dumps(seconds_of(options.run, tuned=options.tuned, rounds=options.rounds)))
        return
    found, goals = {}, []
    for backbone in ("embedded",) if options.embedded else ("embedded", "ViT-B/16"):
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.processes):
            for way in WAYS:
                seconds[way].append(in_a_process(backbone, way, options))
        ratios = {
            f"{way} / jemalloc": [a / b for a, b in zip(seconds[way], seconds["jemalloc"], strict=True)]
            for way in WAYS
            if way != "jemalloc"
        }
        found[backbone] = {name: spread(values) for name, values in ratios.items()}
        for name, values in found[backbone].items():
            print(f"{backbone:<9} {name:<29} {values['median']:.3f} [{values['min']:.3f}, {values['max']:.3f}]")
        measured = statistics.median(ratios["glibc / jemalloc"])
        goals.append(Goal(f"{backbone}: glibc's allocator / jemalloc", measured, 1.05, most=True))
    print_goals(goals)
    write(options.out, {"machine": machine(), "torch": torch.__version__, "ratios": found}, goals=goals)


def in_a_process(backbone: str, way: str, options: argparse.Namespace) -> float:
    command = [sys.executable, "-m", "benchmarks.engine.allocators", "--run", backbone, "--rounds", str(options.rounds)]
    command += ["--tuned"] if way == "glibc" else []
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    if way == "jemalloc":
        environment["LD_PRELOAD"] = options.library
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout))


@torch.inference_mode()
def seconds_of(name: str, *, tuned: bool, rounds: int) -> float:
    """Return the median seconds of a mixed batch of 8 tasks at full depth, after two that do not count."""
    if tuned:
        keep_freed_memory()
    backbone = load_backbone(DEFAULT_BACKBONE) if name == "embedded" else random_vit_base()
    p, engine = backbone.record.id.preprocessing, Engine(backbone, dtype=torch.bfloat16)
    tasks = [random_task(backbone, dtype=torch.bfloat16, device="cpu", seed=seed) for seed in range(8)]
    images, seconds = torch.randn(8, 3, p.height, p.width), []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        engine.forward(images, tasks)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default=find_library("jemalloc"), help="jemalloc's shared library")
    parser.add_argument("--processes", type=int, default=7, help="of each allocator")
    parser.add_argument("--rounds", type=int, default=11, help="batches in each process")
    parser.add_argument("--embedded", action="store_true", help="leave out ViT-B/16")
    parser.add_argument("--run", choices=("embedded", "ViT-B/16"), help=argparse.SUPPRESS)
    parser.add_argument("--tuned", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "allocators.json")
    options = parser.parse_args()
    if options.library is None and options.run is None:
        parser.error(
            "jemalloc is not found: install it (Debian: apt-get install libjemalloc2) or name it with --library"
        )
    return options


if __name__ == "__main__":
    main()
