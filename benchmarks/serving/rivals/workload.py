"""What all servers of a comparison serve: the same tasks of one backbone, in a store and as PEFT leaves them."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.support.tasks import lora_files
from store.adapters.checkpoint import parse_checkpoint
from store.registry.publish import PublishOptions
from store.registry.store import Store
from store.weights.backbones import Backbone, encode

CLASSES = 10
GRAIN = 4  # pixels of the image between two random ones: a photo of this size has about as many bytes


@dataclass(frozen=True)
class Workload:
    """The store, the folder of the rivals, each task with its depth, and an image for each task."""

    store: Path
    folder: Path
    depths: dict[str, int]
    images: dict[str, bytes]


def make_workload(root: Path, backbone: Backbone, depths: Sequence[int]) -> Workload:
    record, folder = backbone.record, root / "rivals"
    folder.mkdir(parents=True)
    by_task = {f"task-{index}": depth for index, depth in enumerate(depths)}
    with Store.open(root / "store", create=True) as store:
        store.add_backbone(record, encode(backbone))
        for seed, (task, depth) in enumerate(by_task.items()):
            files = lora_files(backbone, depth=depth, classes=CLASSES, seed=seed)
            options = PublishOptions(backbone=record.name, depth=depth)
            store.publish_checkpoint(task, parse_checkpoint(files), where=task, options=options)
            (folder / task).mkdir()
            for name, data in files.items():
                (folder / task / name).write_bytes(data)
    about = {
        "architecture": record.id.architecture,
        "arguments": dict(record.id.arguments),
        "preprocessing": dataclasses.asdict(record.id.preprocessing),
        "depths": by_task,
    }
    (folder / "backbone.json").write_text(json.dumps(about))
    (folder / "backbone.safetensors").write_bytes(encode(backbone))
    side = record.id.preprocessing.height
    return Workload(root / "store", folder, by_task, {task: photo(side, seed) for seed, task in enumerate(by_task)})


def photo(side: int, seed: int) -> bytes:
    """Return a JPEG of smooth noise."""
    small = side // GRAIN
    image = Image.frombytes("RGB", (small, small), random.Random(seed).randbytes(3 * small * small))
    out = io.BytesIO()
    image.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()
