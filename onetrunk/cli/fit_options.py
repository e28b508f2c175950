"""The options of `fit` and `cut`, and the settings that they make.

The choices are written out: the tables that they name need torch to load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onetrunk.cli.option_groups import OptionGroup
from onetrunk.cli.options import Aliases, Parent
from onetrunk.cli.output import log_to_stderr, terminal
from onetrunk.cli.progress import show_progress
from onetrunk.cli.recipe_options import RecipeOptions
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from sls.choose_depth import ScoreConfig
    from sls.data.dataset import Dataset
    from sls.pipeline.config import FitConfig

CriterionName = Literal["sls", "sls-authors", "ncm", "ridge", "knn", "silhouette", "cka"]
MethodName = Literal[
    "lora",
    "rslora",
    "dora",
    "ia3",
    "vera",
    "ln",
    "repadapter",
    "convpass",
    "adaptformer",
    "houlsby",
    "adapter+",
    "ssf",
    "bitfit",
]
ModeName = Literal["constant", "rewind", "scratch", "head", "none"]
WhenName = Literal["after", "before", "early"]
PARITY, PARITY_ALPHA = "sls-authors", 0.3

Criterion = Annotated[
    CriterionName,
    typer.Option(help="What scores a block: SLS by t-SNE and silhouette, or one of those that need no t-SNE."),
]
Parity = Annotated[bool, typer.Option("--parity", help=f"As the authors' code: {PARITY} at alpha {PARITY_ALPHA}.")]
Alpha = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="For sls, silhouette, cka: the threshold as a share of the last block's score; default: 0.3, cka 0.7.",
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(min=0, max=0.99, help="For ncm, ridge, knn: the share of accuracy to give up; 0.01 is a point."),
]
Every = Annotated[bool, typer.Option("--all", help="Score the blocks below the cut too, for the picture.")]
Method = Annotated[MethodName, typer.Option(help="The adapters to tune.")]
When = Annotated[
    WhenName,
    typer.Option(
        help="Cut after tuning; before it, by the frozen backbone's features; or early, after one epoch. "
        "The last two tune at the cut alone from there on."
    ),
]
Mode = Annotated[
    ModeName | None,
    typer.Option(
        "--retune",
        help="How to tune again at the cut: at a constant rate of 1e-5, with the rate rewound (the default), "
        "from scratch, with a closed-form head alone, or not at all.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        metavar="POINTS",
        help="Raise the cut, up to full depth, until it costs at most this many points of validation accuracy.",
    ),
]
FromBlock = Annotated[
    int, typer.Option(min=1, help="Adapt this block and those above; those below run once per image.")
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training images, before the cut.")]
RetuneEpochs = Annotated[int, typer.Option(min=1, help="Passes over them at the cut.")]
Patience = Annotated[
    int, typer.Option(min=0, help="Stop after this many epochs without a better validation accuracy; 0: never.")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Keep the task's folders here. The same command then resumes an interrupted run."),
]
NoPublish = Annotated[bool, typer.Option("--no-publish", help="Publish nothing; the folders stay at --out.")]
Plot = Annotated[Path | None, typer.Option(help="Write pictures into this folder, SVG and PNG.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of initialisation, order and t-SNE.")]
Rank = Annotated[
    int, typer.Option(min=1, help="Rank of LoRA and VeRA, hidden width of RepAdapter, Convpass, bottlenecks.")
]
Scale = Annotated[
    float,
    typer.Option(help="Scale of RepAdapter and Convpass, Adapter+'s first one, ten times AdaptFormer's; above 0."),
]
DataRoot = Annotated[Path | None, typer.Option(help="Folder where timm finds or downloads a dataset.")]
AllowDuplicates = Annotated[
    bool,
    typer.Option(
        "--allow-duplicates",
        help="Go on where two splits, or two classes, have images with the same pixels; the certificate counts them.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take at most this many images of each split.")]


@dataclass(frozen=True)
class AdapterOptions(OptionGroup):
    """What is tuned."""

    method: Method = "lora"
    rank: Rank = 8
    scale: Scale = 1.0
    from_block: FromBlock = 1


@dataclass(frozen=True)
class ScoreOptions(OptionGroup):
    """What scores the blocks, and the rule that cuts."""

    criterion: Criterion = "sls"
    parity: Parity = False
    alpha: Alpha = None
    tolerance: Tolerance = 0.01
    every: Every = False

    def config(self, *, seed: int) -> ScoreConfig:
        from sls.choose_depth import ScoreConfig

        if self.parity and (self.criterion not in ("sls", PARITY) or self.alpha not in (None, PARITY_ALPHA)):
            options = f"--criterion {self.criterion}" + ("" if self.alpha is None else f" and --alpha {self.alpha:g}")
            raise InvalidSettingError(f"--parity is {PARITY} at alpha {PARITY_ALPHA}: leave out {options}")
        criterion = PARITY if self.parity else self.criterion
        return ScoreConfig(criterion=criterion, alpha=self.alpha, tolerance=self.tolerance, seed=seed, every=self.every)


@dataclass(frozen=True)
class ScheduleOptions(OptionGroup):
    """When it is cut, how it is tuned again, and for how long."""

    when: When = "after"
    retune: Mode = None
    max_drop: MaxDrop = None
    epochs: Epochs = 8
    retune_epochs: RetuneEpochs = 5
    patience: Patience = 0

    @property
    def retune_mode(self) -> ModeName:
        """How to retune; raises `InvalidSettingError` where there is nothing to retune."""
        if self.when != "after" and self.retune is not None:
            raise InvalidSettingError(f"--when {self.when} tunes once, at the cut: leave out --retune {self.retune}")
        return self.retune or "rewind"


@dataclass(frozen=True)
class DataOptions(OptionGroup):
    """Which images of a dataset are taken, and the seed of everything that is drawn."""

    seed: Seed = 0
    limit: Limit = None
    data_root: DataRoot = None
    allow_duplicates: AllowDuplicates = False

    def load(self, data: str) -> Dataset:
        """Load the images, with progress, and say what there is to know about them."""
        from sls.data.loading import load_dataset

        with show_progress(terminal(stderr=True)) as watch:
            dataset = load_dataset(
                data,
                root=self.data_root,
                limit=self.limit,
                seed=self.seed,
                allow_duplicates=self.allow_duplicates,
                progress=watch(data),
            )
        for note in dataset.notes:
            log_to_stderr(f"data: {note}")
        return dataset


@dataclass(frozen=True)
class ResultOptions(OptionGroup):
    """Where the folders, the pictures and the version go."""

    out: Out = None
    no_publish: NoPublish = False
    plot: Plot = None
    parent: Parent = None
    alias: Aliases = None

    def check(self, data: str) -> None:
        """Raise, before anything is read, where the result could not go where it should."""
        for option, folder in (("--out", self.out), ("--plot", self.plot)):
            if folder is not None:
                _check_folder(option, folder, data)
        if self.no_publish and self.out is None:
            raise InvalidSettingError("--no-publish keeps nothing without --out: add --out DIR for the folders")
        if self.no_publish and (self.parent or self.alias):
            raise InvalidSettingError("--no-publish makes no version: leave out --alias and --parent")


def _check_folder(option: str, folder: Path, data: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise InvalidSettingError(f"{option} {folder} is a file: give a folder")
    if Path(data).is_dir() and folder.resolve().is_relative_to(Path(data).resolve()):
        raise InvalidSettingError(f"{option} {folder} is within the data, and would become a part of it: give another")


def fit_config(
    adapter: AdapterOptions,
    recipe: RecipeOptions,
    score: ScoreOptions,
    schedule: ScheduleOptions,
    *,
    seed: int,
) -> FitConfig:
    """Return the settings of a fit; raises `InvalidSettingError` for options that exclude each other."""
    from sls.pipeline.config import FitConfig
    from sls.training.recipe import TrainingConfig

    tune = TrainingConfig(
        epochs=schedule.epochs,
        rank=adapter.rank,
        seed=seed,
        method=adapter.method,
        from_block=adapter.from_block,
        patience=schedule.patience,
        scale=adapter.scale,
        learning_rate=recipe.lr,
        batch=recipe.batch_size,
        weight_decay=recipe.weight_decay,
        warmup=recipe.warmup,
        augment=recipe.augment,
        label_smoothing=recipe.label_smoothing,
        class_weights=recipe.class_weights,
        mixup=recipe.mixup,
    )
    return FitConfig(
        tune=tune,
        score=score.config(seed=seed),
        retune=replace(tune, epochs=schedule.retune_epochs),
        when=schedule.when,
        retune_mode=schedule.retune_mode,
        max_drop=schedule.max_drop,
        save_dtype=recipe.save_dtype,
    )
