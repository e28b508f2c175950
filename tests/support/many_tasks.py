"""A store with the toy backbone, and small data sets of which many tasks are tuned."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onetrunk.many.fit_job import FitJob
from sls.choose_depth import ScoreConfig
from sls.pipeline.config import FitConfig
from sls.training.recipe import TrainingConfig
from store.registry.store import Store
from support.toy_backbone import Toy
from support.toy_datasets import haze


def quick(epochs: int = 2, **tune: object) -> FitConfig:
    """A fit of seconds: a criterion without t-SNE, and two epochs."""
    config = TrainingConfig(**{"epochs": epochs, "rank": 2, **tune})
    return FitConfig(tune=config, score=ScoreConfig(criterion="ridge"), retune=TrainingConfig(epochs=1))


def write_data(folder: Path, name: str = "haze", *, train: int = 40, turn: int = 0, validation: int = 12) -> str:
    """Write the hazy colours as .npz; `turn` gives the same images other labels."""
    task = haze(train=train, validation=max(validation, 1))
    parts = {"train": task.train, "test": task.test} | ({"val": task.validation} if validation else {})
    arrays = {f"{part}_x": np.stack(split.images) for part, split in parts.items()}
    arrays |= {f"{part}_y": (split.labels + turn) % 3 for part, split in parts.items()}
    np.savez(folder / f"{name}.npz", classes=np.array(task.classes), **arrays)
    return str(folder / f"{name}.npz")


def toy_store(root: Path, toy: Toy) -> Store:
    store = Store.open(root, create=True)
    store.add_backbone(toy.record, toy.weights)
    return store


def job(task: str, data: str, **fields: object) -> FitJob:
    return FitJob(**{"task": task, "data": data, "config": quick(), "backbone": "toy/vit", **fields})


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file of tuned folders, without locks and what a run keeps for itself."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
