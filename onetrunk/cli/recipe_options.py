"""The options of `fit` that say how a task is trained, and the file that may hold any of its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from onetrunk.cli.config_file import read_config
from onetrunk.cli.option_groups import OptionGroup

Rate = Annotated[
    float | None,
    typer.Option("--lr", help="The highest learning rate, above 0 and below 1; default: the method's own."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images of one step.")]
Decay = Annotated[float, typer.Option(min=0, max=0.99, help="Weight decay of AdamW.")]
Warmup = Annotated[float, typer.Option(min=0, max=0.99, help="Share of the steps in which the rate rises.")]
Augment = Annotated[
    str,
    typer.Option(
        metavar="POLICY",
        help="Change training images: none; light (crop, contrast, brightness); or one of timm, as rand-m9-mstd0.5.",
    ),
]
Smoothing = Annotated[float, typer.Option(min=0, max=0.99, help="Share of the target that all classes have.")]
ClassWeightsName = Literal["none", "balanced"]
ClassWeights = Annotated[
    ClassWeightsName, typer.Option(help="balanced: weight each class by the inverse of its images.")
]
Mixup = Annotated[
    float, typer.Option(min=0, metavar="ALPHA", help="Mix pairs of images with shares of Beta(ALPHA, ALPHA).")
]
DtypeName = Literal["float32", "bfloat16", "float16"]
SaveDtype = Annotated[
    DtypeName, typer.Option(help="Store adapter and head in this dtype; the certificate says what 16 bits cost.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=read_config,
        help="TOML file of options by their names, as lr = 0.001; the command line goes before it.",
    ),
]


@dataclass(frozen=True)
class RecipeOptions(OptionGroup):
    """How it is tuned, before the cut and after."""

    lr: Rate = None
    batch_size: BatchSize = 8
    weight_decay: Decay = 1e-4
    warmup: Warmup = 0.1
    augment: Augment = "none"
    label_smoothing: Smoothing = 0.0
    class_weights: ClassWeights = "none"
    mixup: Mixup = 0.0
    save_dtype: SaveDtype = "float16"
    config: ConfigFile = None
