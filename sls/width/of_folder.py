"""The width of a task that is tuned already; its folder is not changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sls.adapters.model import AdaptedModel
from sls.adapters.task_folder import read_folder
from sls.choose_depth import check_classes
from sls.data.dataset import Dataset
from sls.progress import ProgressCallback, ignore_progress
from sls.training.recipe import TrainingConfig
from sls.width.search import WidthConfig, WidthSubject, search_width
from sls.width.trial import WidthPoint, choose_both, width_curve
from store.adapters.checkpoint import CARD, read_checkpoint
from store.adapters.methods.custom import CONVPASS
from store.adapters.widths import FC1, FC2, NO_CONVOLUTION, PROJ, QKV, kind_of
from store.errors import InvalidSettingError, UnservedAdapterError
from store.records.manifest import Card
from store.weights.backbones import Backbone
from store.weights.preprocessing import make_transform

TURNS = {"oft_R": (PROJ, FC2), "boft_R": (PROJ, FC2), "road_theta": (QKV, FC1)}
"""What PEFT's layers of OFT, BOFT and RoAd have, and the maps where they exchange numbers of heads or of units."""


def width_of_folder(
    folder: str | Path,
    dataset: Dataset,
    backbone: Backbone,
    *,
    config: WidthConfig,
    budgets: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> tuple[WidthPoint, ...]:
    """Score heads and units once, and measure the task at each budget, without training it again.

    The adapter stays as it is: masks are trained with the head alone. With `config.with_depth` the accuracy is that of
    a closed-form head. Raises `DataError` where the dataset's class names are not the folder's, `InvalidSettingError`
    for a task that is pruned already, and `UnservedAdapterError` for an adapter that turns heads or units together, or
    convolves patches of which some are to be left out.
    """
    subject = subject_of_folder(folder, dataset, backbone, seed=seed, progress=progress)
    if config.tokens is not None and read_checkpoint(Path(folder)).settings["peft_type"] == CONVPASS:
        raise UnservedAdapterError(NO_CONVOLUTION)
    importance = search_width(subject, config)
    if not config.with_depth:
        return width_curve(subject, importance, budgets, config.tokens)
    points = []
    for budget in budgets:
        best = choose_both(subject, importance, budget, config.tokens)[0]
        share = importance.share(best.width, best.tokens)
        points.append(WidthPoint(budget, best.width, share, best.accuracy, best.tokens))
    return tuple(points)


def subject_of_folder(
    folder: str | Path, dataset: Dataset, backbone: Backbone, *, seed: int, progress: ProgressCallback
) -> WidthSubject:
    """Return the task of a folder for a search; its adapter is not trained."""
    folder = Path(folder)
    check_classes(folder, dataset)
    index = Card.from_json((folder / CARD).read_bytes()).prune_index if (folder / CARD).exists() else None
    if index is not None and (index.width is not None or index.tokens is not None):
        raise InvalidSettingError(
            f"{folder} has fewer heads, units or patches than its backbone already: give the whole task"
        )
    transform = make_transform(backbone.record.id.preprocessing)
    model = partial(read_folder, folder, backbone)
    check_parts(model())
    return WidthSubject(dataset, backbone, model, TrainingConfig(seed=seed), transform, progress)


def check_parts(model: AdaptedModel) -> None:
    """Raise `UnservedAdapterError` where no adapter at a pruned shape does what this one does with the rest masked."""
    for path, module in model.vit.named_modules():
        for name, kinds in TURNS.items():
            if hasattr(module, name) and kind_of(path) in kinds:
                raise UnservedAdapterError(
                    f"the adapter on {path} turns numbers of several heads or units together, so none of them can be "
                    "left out alone: tune with another method, or turn the other maps of a block alone"
                )
