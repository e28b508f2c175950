"""The options of `fit` and `width` that prune heads, MLP units and tokens, and the settings that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onetrunk.cli.option_groups import OptionGroup
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from sls.width.search import WidthConfig

WidthName = Literal["vit-slim", "slimming", "taylor", "magnitude"]
DEFAULT_BUDGET, LOWEST_BUDGET = 0.7, 0.3
MOST_BUDGETS = 20

Width = Annotated[
    WidthName | None,
    typer.Option(
        help="Prune heads and MLP units, with --tokens patches too: by soft masks that are trained (ViT-Slim's or "
        "Network Slimming's), by gradients, or by the weights alone.",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=1,
        help=f"Share of the blocks' operations to keep; default: {DEFAULT_BUDGET}, or with --max-drop from "
        f"{LOWEST_BUDGET} up.",
    ),
]
Budgets = Annotated[
    str | None,
    typer.Option(metavar="B,B,…", help="Publish nothing: show what each of these budgets costs, after one search."),
]
SearchEpochs = Annotated[int, typer.Option(min=1, help="Passes over the training images to train masks.")]
HeadPenalty = Annotated[float, typer.Option("--l1-heads", min=0, help="Weight of the L1 norm of head masks.")]
UnitPenalty = Annotated[float, typer.Option("--l1-units", min=0, help="Weight of the L1 norm of unit masks.")]
TokenPenalty = Annotated[float, typer.Option("--l1-tokens", min=0, help="Weight of the L1 norm of token masks.")]
Tokens = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=1,
        metavar="SHARE",
        help="Share of the patch tokens to keep, over all blocks, fewer from block to block (vit-slim, taylor); "
        "default: all.",
    ),
]
UnitGroup = Annotated[
    int,
    typer.Option(
        min=1,
        help="Keep or leave out MLP units in groups of so many neighbours: the kernel leaves out whole groups of 32. "
        "1 keeps any of them, which is better where nothing is tuned afterwards.",
    ),
]
WithDepth = Annotated[
    bool, typer.Option("--with-depth", help="Cut the depth too, where that serves the budget better.")
]


@dataclass(frozen=True)
class SearchOptions(OptionGroup):
    """How masks are trained, and whether tokens are pruned and the depth is cut too."""

    tokens: Tokens = None
    search_epochs: SearchEpochs = 5
    l1_heads: HeadPenalty = 1e-3
    l1_units: UnitPenalty = 1e-4
    l1_tokens: TokenPenalty = 1e-4
    unit_group: UnitGroup = 32
    with_depth: WithDepth = False

    def config(self, criterion: WidthName, budget: float) -> WidthConfig:
        from sls.width.search import WidthConfig

        return WidthConfig(
            criterion=criterion,
            budget=budget,
            epochs=self.search_epochs,
            l1_heads=self.l1_heads,
            l1_units=self.l1_units,
            with_depth=self.with_depth,
            tokens=self.tokens,
            l1_tokens=self.l1_tokens,
            unit_group=self.unit_group,
        )


@dataclass(frozen=True)
class WidthOptions(OptionGroup):
    """Whether the width of a task is pruned, and how far."""

    width: Width = None
    budget: Budget = None
    budgets: Budgets = None

    def config(self, search: SearchOptions, *, max_drop: float | None) -> WidthConfig | None:
        """Return the settings, None for full width; raises `InvalidSettingError` for options without --width."""
        if self.width is None:
            if self.budget is not None or self.budgets is not None or search != SearchOptions():
                raise InvalidSettingError("--budget, --budgets and the options of the search need --width: add it")
            return None
        lowest = DEFAULT_BUDGET if max_drop is None else LOWEST_BUDGET
        return search.config(self.width, lowest if self.budget is None else self.budget)


def parse_budgets(text: str) -> tuple[float, ...]:
    """Read `0.3,0.5,0.7`."""
    try:
        budgets = tuple(float(part) for part in text.split(","))
    except ValueError:
        budgets = ()
    if not 1 <= len(budgets) <= MOST_BUDGETS or not all(0 < budget <= 1 for budget in budgets):
        raise InvalidSettingError(
            f"--budgets {text[:80]!r} is not valid: write up to {MOST_BUDGETS} shares above 0 and at most 1, as 0.3,0.5"
        )
    return budgets
