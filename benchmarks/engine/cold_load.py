"""How long one task takes from the store into memory, verified, and what that time consists of.

Publishes LoRA tasks on every linear map of a ViT-B/16 (with --small, of the packaged backbone), stored in float32 as
PEFT saves them and in bfloat16, and loads each for an engine in float32 and in bfloat16, on one core and on all, into
the layout that the engine multiplies with (in bfloat16 the kernel's, where this machine runs it): from the page cache,
and from the disk where the system gives pages back; verified by BLAKE3, and by SHA-256 as a version is whose manifest
is older. In the same rounds, each part alone, and the slow twin: `read`, which hashes, then `lower`.
Meters what other processes do in a round, and counts the rounds in which they kept half a core busy apart. Prints JSON;
also in benchmarks/results/cold_load.json.

    python -m benchmarks.engine.cold_load
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.figures import Goal, conclude, machine, spread
from benchmarks.support.foreign_load import ForeignLoad
from benchmarks.support.models import DTYPES, random_vit_base
from benchmarks.support.options import make_parser
from benchmarks.support.tasks import publish_lora
from serving.engine.engine import Engine
from serving.engine.row_plan import EngineTask
from store.backends.mapped_file import map_file
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.records.blob import blake3_of
from store.records.manifest import Manifest
from store.registry.store import Store
from store.weights.backbones import Backbone, encode, load_backbone
from store.weights.forms import TaskWeights
from store.weights.load_task import load_prepared, load_task
from store.weights.lowering.lower import Tensors, lower
from store.weights.lowering.stacked_lora import lower_blocks

GOAL_MS = 3.0
FOREIGN_CORES = 0.5  # kept busy by others, above which a round does not count
FEW = 4  # quiet rounds, too few for a median: then all rounds count
LOAD, FROM_DISK = "load", "load from disk"
LOWERED, PACKED = "load, lowered alone", "load lowered, then packed"


@dataclass(frozen=True)
class Case:
    name: str
    dtype: torch.dtype


def main() -> None:
    options = parse()
    keep_freed_memory()
    torch.set_num_threads(1)  # as on a loading thread
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        backbone = load_backbone(DEFAULT_BACKBONE) if options.small else random_vit_base()
        with Store.open(Path(folder) / "store", create=True) as store:
            store.add_backbone(backbone.record, encode(backbone))
            results = []
            for stored in DTYPES:
                manifests = publish(store, backbone, stored, options)
                for engine in DTYPES:
                    for cores in choices_of_cores():
                        case = Case(f"stored in {stored}, engine in {engine}, {len(cores)} core(s)", DTYPES[engine])
                        print(case.name, file=sys.stderr)
                        os.sched_setaffinity(0, cores)
                        results.append(measure(store, backbone, manifests, case, options.rounds))
    report = {"machine": machine(), "torch": torch.__version__, "backbone": backbone.record.name, "results": results}
    print(json.dumps(report, indent=2))
    conclude(
        options.out, report, [Goal(f"{r['case']}, ms", r["ms"][LOAD]["median"], GOAL_MS, most=True) for r in results]
    )


def choices_of_cores() -> list[set[int]]:
    """Return one core and two, of those that this process may use; threads that start later take over the choice."""
    allowed = sorted(os.sched_getaffinity(0))
    return [set(allowed[:count]) for count in (1, 2) if count <= len(allowed)]


def publish(store: Store, backbone: Backbone, stored: str, options: argparse.Namespace) -> list[Manifest]:
    """Publish as many tasks as are loaded in turn, so that no load finds its bytes in the processor's cache."""
    return [
        publish_lora(store, f"{stored}-{index}", backbone, rank=options.rank, dtype=DTYPES[stored], seed=index).manifest
        for index in range(options.tasks)
    ]


def measure(store: Store, backbone: Backbone, manifests: list[Manifest], case: Case, rounds: int) -> dict[str, Any]:
    subjects = subjects_of(store, Engine(backbone, dtype=case.dtype), backbone.tensors)
    ms: dict[str, list[float]] = {name: [] for name in subjects}
    cpu_ms: dict[str, list[float]] = {name: [] for name in subjects}  # of all threads, whatever else the machine does
    foreign, cores = ForeignLoad(), []
    for index in range(rounds + 2):
        foreign.cores()
        for turn, (name, run) in enumerate(subjects.items()):
            manifest = manifests[(index * len(subjects) + turn) % len(manifests)]
            if name == FROM_DISK:
                forget(store, manifest)
            start, cpu = time.perf_counter(), time.process_time()
            run(manifest)
            ms[name].append((time.perf_counter() - start) * 1e3)
            cpu_ms[name].append((time.process_time() - cpu) * 1e3)
        cores.append(foreign.cores())
    quiet = [index for index in range(2, rounds + 2) if cores[index] < FOREIGN_CORES]
    counted = quiet if len(quiet) > FEW else range(2, rounds + 2)
    return {
        "case": case.name,
        "nbytes": sum(blob.nbytes for blob in manifests[0].blobs),
        "rounds": rounds,
        "rounds_with_foreign_load": rounds - len(quiet),
        "rounds_counted": len(counted),
        "ms": {name: spread([times[index] for index in counted]) for name, times in ms.items()},
        "cpu_ms": {name: spread([times[index] for index in counted]) for name, times in cpu_ms.items()},
    }


def subjects_of(store: Store, engine: Engine, tensors: Tensors) -> dict[str, Callable[[Manifest], object]]:
    dtype = engine.dtype

    def views(manifest: Manifest) -> list[memoryview]:
        return [map_file(store.blobs.locate(blob)) for blob in manifest.blobs]

    def lower_adapter(manifest: Manifest) -> None:
        view = map_file(store.blobs.locate(manifest.adapter.weights))
        assert lower_blocks(json.loads(store.read(manifest.adapter.config)), view, dtype=dtype) is not None

    def load(manifest: Manifest) -> EngineTask:
        return load_prepared(store, manifest, engine.prepare, backbone=tensors, dtype=dtype, device="cpu")

    def lowered(manifest: Manifest) -> TaskWeights:
        return load_task(store, manifest, backbone=tensors, dtype=dtype)

    return {
        LOAD: load,
        LOWERED: lowered,
        PACKED: lambda manifest: engine.prepare(lowered(manifest)),
        "load by SHA-256, as before manifest format 5": lambda manifest: load(without_blake3(manifest)),
        "of that: mapping": views,
        "of that: mapping and BLAKE3": lambda manifest: [blake3_of(view) for view in views(manifest)],
        "of that: mapping and SHA-256": lambda manifest: [sha256(view).digest() for view in views(manifest)],
        "of that: mapping and lowering the adapter": lower_adapter,
        "slow twin: read, hash, then lower": lambda manifest: load_plainly(store, manifest, tensors, dtype),
        FROM_DISK: load,
    }


def without_blake3(manifest: Manifest) -> Manifest:
    return replace(
        manifest,
        adapter=replace(manifest.adapter, weights_blake3=None),
        head=replace(manifest.head, weights_blake3=None),
    )


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
