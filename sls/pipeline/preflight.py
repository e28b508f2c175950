"""What a fit would fail of after its training, refused before it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from sls.adapters.methods import METHODS
from sls.data.dataset import Dataset
from sls.pipeline.config import FitConfig
from sls.pipeline.retune import untrained
from sls.training.recipe import TrainingConfig
from sls.width.search import check_widths
from store.errors import DataError, InvalidSettingError, StorageError
from store.weights.backbones import Backbone

STORED = 2  # the folders `full` and `cut`
RESUMED = 2 * 4  # two training checkpoints: weights, two moments, the best epoch's weights
FLOAT_NBYTES = 4


def check_run(
    dataset: Dataset, backbone: Backbone, tune: TrainingConfig, *, max_drop: float | None, out: Path | None = None
) -> None:
    """Raise unless the data suffice for the config, the config fits the backbone, and `out` can take the result."""
    if max_drop is not None and not len(dataset.validation):
        raise InvalidSettingError(
            f"max_drop {max_drop:g} needs validation images, and {dataset.name} has none: "
            "give a validation split, or leave out `max_drop=`"
        )
    if tune.from_block > backbone.record.blocks:
        raise InvalidSettingError(
            f"adapters from block {tune.from_block}: {backbone.record.name} has {backbone.record.blocks}; "
            f"choose 1..{backbone.record.blocks}"
        )
    if tune.patience and not len(dataset.validation):
        raise DataError(f"{dataset.name}: patience {tune.patience} needs validation images: give some, or patience 0")
    if out is None:
        return
    _check_folder(out)
    needed = (STORED + RESUMED) * FLOAT_NBYTES * trainable_parameters(dataset, backbone, tune)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise StorageError(
            f"{out} has {free:,} bytes free, the fit writes up to {needed:,}: free some, or choose `out=`"
        )


def check_stages(config: FitConfig, backbone: Backbone) -> None:
    """Raise where the config needs one width of all blocks, and the backbone has stages."""
    if config.width is not None:
        check_widths(config.width, backbone.record)
    if backbone.record.geometry.staged and config.when == "after" and config.retune_mode == "none":
        raise InvalidSettingError(
            f"retune_mode 'none' keeps the head, and the stages of {backbone.record.name} give different numbers of "
            "features: use 'head', 'rewind', 'constant' or 'scratch'"
        )


def trainable_parameters(dataset: Dataset, backbone: Backbone, config: TrainingConfig) -> int:
    """Count the numbers that are trained at full depth: adapter and head."""
    start = untrained(dataset, backbone, config)
    with torch.random.fork_rng(devices=()):
        vit = METHODS[start.method].wrap(backbone, start, torch.bfloat16).vit
    adapter: int = sum(parameter.numel() for parameter in vit.parameters() if parameter.requires_grad)
    return adapter + start.weight.numel() + start.bias.numel()


def _check_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InvalidSettingError(
            f"{out} cannot take the result ({error.strerror}): give a folder that this user may write as `out=`"
        ) from None
