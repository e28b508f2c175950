"""The engine alone, in a process of its own that waits for a line before each measurement.

A line is JSON with the rows of a batch and the seconds to run; the answer has images a second and the p50 of a batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch

from serving.benchmark.quantiles import quantile
from serving.benchmark.subjects import random_task
from serving.engine.engine import Engine
from store.malloc import keep_freed_memory
from store.registry.store import Store
from store.weights.backbones import open_backbone

DTYPE = torch.bfloat16


@torch.inference_mode()
def main() -> None:
    """Read lines until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("depths", help="JSON: the depth of each task")
    options = parser.parse_args()
    keep_freed_memory()
    with Store.open(options.store) as store:
        (record,) = store.backbones()
        backbone = open_backbone(store, record)
        engine, p = Engine(backbone, dtype=DTYPE), record.id.preprocessing
        tasks = [
            random_task(backbone, dtype=DTYPE, device="cpu", seed=seed, depth=depth)
            for seed, depth in enumerate(json.loads(options.depths))
        ]
        for line in sys.stdin:
            plan = json.loads(line)
            rows, images = plan["rows"], torch.randn(plan["rows"], 3, p.height, p.width)
            batches = [tasks[at : at + rows] for at in range(0, len(tasks), rows)]
            seconds = [run(engine, images, batch) for batch in batches * 2][len(batches) :]
            start = time.perf_counter()
            while time.perf_counter() < start + plan["seconds"]:
                seconds += [run(engine, images, batch) for batch in batches]
            print(json.dumps({"images_per_s": rows * len(seconds) / sum(seconds), "p50_s": quantile(seconds, 0.5)}))
            sys.stdout.flush()


def run(engine: Engine, images: torch.Tensor, batch: list) -> float:
    start = time.perf_counter()
    engine.forward(images, batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
