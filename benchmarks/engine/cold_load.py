"""How long one task takes from the store into memory, verified, and what that time consists of.

Publishes LoRA tasks on every linear map of a ViT-B/16 (with --small, of the packaged backbone), stored in float32 as
PEFT saves them and in bfloat16, and loads each for an engine in float32 and in bfloat16: from the page cache, and from
the disk where the system gives pages back. In the same rounds, each part alone: mapping the files; their SHA-256, which
is the least that a load can take, since all bytes are hashed before they are used; lowering; and `read` and `lower` one
after the other. Prints JSON; also in benchmarks/results/cold_load.json.

    python -m benchmarks.engine.cold_load
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.figures import Goal, conclude, machine, spread, spread_of_ratios
from benchmarks.support.models import DTYPES, random_vit_base
from benchmarks.support.options import make_parser
from benchmarks.support.tasks import publish_lora
from store.backends.mapped_file import map_file
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.records.manifest import Manifest
from store.registry.store import Store
from store.weights.backbones import Backbone, encode, load_backbone
from store.weights.forms import TaskWeights
from store.weights.load_task import load_task
from store.weights.lowering.lower import Tensors, lower
from store.weights.lowering.stacked_lora import lower_blocks

GOAL_MS = 3.0


def main() -> None:
    options = parse()
    keep_freed_memory()
    torch.set_num_threads(1)  # as on a loading thread: its tensor operations are too small to be shared out
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        backbone = load_backbone(DEFAULT_BACKBONE) if options.small else random_vit_base()
        with Store.open(Path(folder) / "store", create=True) as store:
            store.add_backbone(backbone.record, encode(backbone))
            results = []
            for stored in DTYPES:
                manifests = publish(store, backbone, stored, options)
                for engine in DTYPES:
                    print(f"stored in {stored}, engine in {engine}", file=sys.stderr)
                    results.append(measure(store, backbone, manifests, stored, engine, options.rounds))
    report = {"machine": machine(), "torch": torch.__version__, "backbone": backbone.record.name, "results": results}
    print(json.dumps(report, indent=2))
    goals = [Goal(f"{r['task']}, ms", r["ms"]["load"]["median"], GOAL_MS, most=True) for r in results]
    conclude(options.out, report, goals)


def publish(store: Store, backbone: Backbone, stored: str, options: argparse.Namespace) -> list[Manifest]:
    """Publish as many tasks as are loaded in turn, so that no load finds its bytes in the processor's cache."""
    return [
        publish_lora(store, f"{stored}-{index}", backbone, rank=options.rank, dtype=DTYPES[stored], seed=index).manifest
        for index in range(options.tasks)
    ]


def measure(
    store: Store, backbone: Backbone, manifests: list[Manifest], stored: str, engine: str, rounds: int
) -> dict[str, Any]:
    dtype, tensors = DTYPES[engine], backbone.tensors

    def map_files(manifest: Manifest) -> None:
        for blob in manifest.blobs:
            map_file(store.blobs.locate(blob))

    def lower_alone(manifest: Manifest) -> None:
        view = map_file(store.blobs.locate(manifest.adapter.weights))
        assert lower_blocks(json.loads(store.read(manifest.adapter.config)), view, dtype=dtype) is not None

    def load_from_disk(manifest: Manifest) -> None:
        load_task(store, manifest, backbone=tensors, dtype=dtype)

    subjects: dict[str, Callable[[Manifest], object]] = {
        "load": lambda manifest: load_task(store, manifest, backbone=tensors, dtype=dtype),
        "of that: mapping": map_files,
        "of that, on its own thread: sha256": lambda manifest: digest(store, manifest),
        "of that: lowering and casting the adapter": lower_alone,
        "read, hash, then lower": lambda manifest: load_plainly(store, manifest, tensors, dtype),
        "load from disk": load_from_disk,
    }
    ms: dict[str, list[float]] = {name: [] for name in subjects}
    cpu_ms: dict[str, list[float]] = {name: [] for name in subjects}  # of all threads, whatever else the machine does
    for index in range(rounds + 2):
        for turn, (name, run) in enumerate(subjects.items()):
            manifest = manifests[(index * len(subjects) + turn) % len(manifests)]
            if run is load_from_disk:
                forget(store, manifest)
            start, cpu = time.perf_counter(), time.process_time()
            run(manifest)
            if index >= 2:
                ms[name].append((time.perf_counter() - start) * 1e3)
                cpu_ms[name].append((time.process_time() - cpu) * 1e3)
    return {
        "task": f"cold load, stored in {stored}, engine in {engine}",
        "nbytes": sum(blob.nbytes for blob in manifests[0].blobs),
        "rounds": rounds,
        "ms": {name: spread(times) for name, times in ms.items()},
        "cpu_ms": {name: spread(times) for name, times in cpu_ms.items()},
        "load_over_sha256": spread_of_ratios(ms["load"], ms["of that, on its own thread: sha256"]),
    }


def digest(store: Store, manifest: Manifest) -> None:
    for blob in manifest.blobs:
        hashlib.sha256(map_file(store.blobs.locate(blob))).hexdigest()


def load_plainly(store: Store, manifest: Manifest, tensors: Tensors, dtype: torch.dtype) -> TaskWeights:
    return lower(
        config=store.read(manifest.adapter.config),
        adapter=store.read(manifest.adapter.weights),
        head=store.read(manifest.head.weights),
        labels=store.read(manifest.head.labels),
        depth=manifest.depth,
        backbone=tensors,
        dtype=dtype,
    )


def forget(store: Store, manifest: Manifest) -> None:
    """Ask the system to drop the files from its memory: they are on disk already, so it can."""
    for blob in manifest.blobs:
        descriptor = os.open(store.blobs.locate(blob), os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="cold_load.json")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=20, help="distinct tasks of each kind")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--small", action="store_true", help="the packaged backbone instead of ViT-B/16")
    parser.add_argument("--folder", type=Path, help="where the store is made: its disk is what is measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
