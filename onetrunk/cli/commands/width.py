"""The command that says which heads, MLP units and tokens a task needs."""

from __future__ import annotations

from typing import Annotated

import typer

from onetrunk.cli.commands.fit import DATA_HELP, progress_of
from onetrunk.cli.fit_options import DataOptions, Plot
from onetrunk.cli.option_groups import StoreOptions, with_groups, with_store
from onetrunk.cli.options import BackboneName, command_group, example
from onetrunk.cli.tuned_folder import opened
from onetrunk.cli.width_options import SearchOptions, WidthName, parse_budgets
from onetrunk.cli.width_output import draw_points, print_points

BUDGETS = "0.3,0.5,0.7,0.9"

app = command_group()


@app.command(epilog=example(
    "width digits onetrunk/digits",
    "width digits onetrunk/digits --criterion taylor --budgets 0.5,0.7 --format json",
    "width digits onetrunk/digits --criterion taylor --tokens 0.6 --plot pictures",
    "width ./checkpoint ./flowers --backbone onetrunk/vit_tiny_64.v2 --plot pictures",
))  # fmt: skip
@with_store()
@with_groups
def width(
    options: StoreOptions,
    target: Annotated[str, typer.Argument(help="A published REF, or a folder as `export` makes it.")],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    *,
    criterion: Annotated[WidthName, typer.Option(help="What scores heads, units and tokens.")] = "taylor",
    budgets: Annotated[str, typer.Option(metavar="B,B,…", help="Shares of the operations to try.")] = BUDGETS,
    search: SearchOptions,
    plot: Plot = None,
    images: DataOptions,
    backbone: BackboneName = None,
) -> None:
    """Score the heads and MLP units of a task, with --tokens its patches too; say what each budget keeps and costs.

    Changes nothing.
    """
    from sls.width.of_folder import width_of_folder
    from store.malloc import keep_freed_memory

    keep_freed_memory()
    shares = parse_budgets(budgets)
    config = search.config(criterion, shares[0])
    dataset = images.load(data)
    with opened(options, target, backbone) as (folder, model), progress_of(target) as progress:
        points = width_of_folder(
            folder, dataset, model, config=config, budgets=shares, seed=images.seed, progress=progress
        )
    print_points(points, options.fmt)
    if plot is not None:
        draw_points(criterion, points, plot)
