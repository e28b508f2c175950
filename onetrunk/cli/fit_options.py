"""The options of `fit` and `cut`, and the settings that they make; the tables that they name need torch to load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from sls.choose_depth import ScoreConfig

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
WhenName = Literal["after", "before"]
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
        help="Of sls, silhouette and cka: cut where a block is below alpha x the top; by default 0.3, of cka 0.7.",
    ),
]
Tolerance = Annotated[
    float, typer.Option(min=0, max=0.99, help="Of ncm, ridge and knn: the share of accuracy to give up; 0.01: a point.")
]
Every = Annotated[bool, typer.Option("--all", help="Score the blocks below the cut too, for the picture.")]
Method = Annotated[MethodName, typer.Option(help="The adapters to tune.")]
When = Annotated[
    WhenName,
    typer.Option(help="Cut after tuning, or before it: on the frozen backbone's features, to tune at that depth only."),
]
Mode = Annotated[
    ModeName | None,
    typer.Option(
        "--retune",
        help="How to go on at the cut: at a constant rate of 1e-5, with the rate rewound (the default), from scratch, "
        "with a closed-form head alone, or not at all.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        metavar="POINTS",
        help="Walk the cut up until it loses at most so many points of validation accuracy; at full depth, do not cut.",
    ),
]
FromBlock = Annotated[int, typer.Option(min=1, help="Adapt this block and those above; those below run once an image.")]
Patience = Annotated[
    int, typer.Option(min=0, help="Stop after so many epochs without a better validation accuracy; 0: never.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Leave the task's folders here. The same command goes on from where an earlier one was interrupted."
    ),
]
NoPublish = Annotated[bool, typer.Option("--no-publish", help="Publish nothing; the folders stay at --out.")]
Plot = Annotated[Path | None, typer.Option(help="Write pictures into this folder, SVG and PNG.")]
Seed = Annotated[int, typer.Option(help="Seed of initialisation, order and t-SNE.")]
Rank = Annotated[
    int, typer.Option(min=1, help="Rank of LoRA and VeRA, hidden width of RepAdapter, Convpass, bottlenecks.")
]
Scale = Annotated[
    float,
    typer.Option(help="Scale of RepAdapter and Convpass, Adapter+'s first one, ten times AdaptFormer's; above 0."),
]
DataRoot = Annotated[Path | None, typer.Option(help="Where a data set of timm's is, or shall be, on disk.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take at most so many images of each part.")]


def score_settings(
    criterion: CriterionName, *, parity: bool, alpha: float | None, tolerance: float, seed: int, every: bool
) -> ScoreConfig:
    from sls.choose_depth import ScoreConfig

    if parity and (criterion not in ("sls", PARITY) or alpha not in (None, PARITY_ALPHA)):
        given = f"--criterion {criterion}" + ("" if alpha is None else f" and --alpha {alpha:g}")
        raise InvalidSettingError(f"--parity is {PARITY} at alpha {PARITY_ALPHA}: leave out {given}")
    return ScoreConfig(
        criterion=PARITY if parity else criterion, alpha=alpha, tolerance=tolerance, seed=seed, every=every
    )


def check_mode(when: WhenName, mode: ModeName | None) -> ModeName:
    """Return how to retune, or raise `InvalidSettingError` where there is nothing to retune."""
    if when == "before" and mode is not None:
        raise InvalidSettingError(f"--when before tunes once, at the cut: leave out --retune {mode}")
    return mode or "rewind"


def check_published(*, out: Path | None, publish: bool, named: bool) -> None:
    """Raise, before anything is trained, where what comes of it could not go where it should."""
    if not publish and out is None:
        raise InvalidSettingError("--no-publish leaves nothing behind: say with --out DIR where the folders go")
    if not publish and named:
        raise InvalidSettingError("--no-publish makes no version: leave out --alias and --parent")
