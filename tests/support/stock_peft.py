"""A small backbone, fits on it, and what stock timm and PEFT measure on their folders: the slow twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file

from sls.data.dataset import Dataset, Split
from sls.pipeline.config import FitConfig
from sls.pipeline.fit import FitResult, fit
from sls.progress import ignore_progress
from store.adapters.checkpoint import HEAD
from store.records.evidence import Accuracy
from store.weights.preprocessing import make_transform
from support.toy_datasets import toy_backbone

BACKBONE = toy_backbone()
TRANSFORM = make_transform(BACKBONE.record.id.preprocessing)


def run(config: FitConfig, out: Path, dataset: Dataset) -> FitResult:
    return fit(dataset, BACKBONE, out=out, config=config, progress=ignore_progress)


def served(folder: Path, depth: int, split: Split) -> torch.Tensor:
    """The slow twin: timm, PEFT's own loader, the upper blocks cut off."""
    model = PeftModel.from_pretrained(BACKBONE.build(), str(folder)).eval()
    model.base_model.model.blocks = model.base_model.model.blocks[:depth]
    with torch.inference_mode():
        return model(split.inputs(range(len(split)), TRANSFORM))


def answers(folder: Path, depth: int, split: Split) -> np.ndarray:
    head = {name: value.float() for name, value in load_file(folder / HEAD).items()}
    return (served(folder, depth, split) @ head["weight"].T + head["bias"]).argmax(dim=1).numpy()


def measured(folder: Path, depth: int, split: Split) -> Accuracy:
    return Accuracy(int((answers(folder, depth, split) == split.labels).sum()), len(split))
