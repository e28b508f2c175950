"""Commands that tune many tasks, and that ask many tasks for many images."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.commands.fit import telling_what_is_kept
from onetrunk.cli.fit_options import (
    AdapterOptions,
    DataOptions,
    NoPublish,
    ScheduleOptions,
    ScoreOptions,
    fit_config,
)
from onetrunk.cli.fit_plan import Plan, RowParser, read_plan
from onetrunk.cli.fit_search import parse_search, title_of
from onetrunk.cli.option_groups import OptionGroup, StoreOptions, with_groups, with_store
from onetrunk.cli.options import Aliases, DryRun, command_group, example
from onetrunk.cli.output import log_dry_run, log_to_stderr, print_rows, terminal
from onetrunk.cli.progress import show_many
from onetrunk.cli.recipe_options import RecipeOptions
from store.errors import DataError, InvalidSettingError, OnetrunkError, StoreNotFoundError
from store.records.backbone import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from onetrunk.many.fit_job import FitJob, FitOutcome

COLUMNS = ("task", "state", "version", "depth", "blocks", "accuracy", "accuracy_full", "seconds")

app = command_group()

Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes at a time; default: one a core here, as many as have room on a cluster."),
]
RayAddress = Annotated[
    str | None, typer.Option("--ray", help="Run on the Ray cluster at this address, HOST:PORT or auto; default: here.")
]


@dataclass(frozen=True)
class RunOptions(OptionGroup):
    """Where many tasks are tuned, with which settings, and what is done with them."""

    out: Annotated[
        Path | None, typer.Option(help="Keep the tasks' folders here; default: PLAN-work. The same command resumes.")
    ] = None
    no_publish: NoPublish = False
    alias: Aliases = None
    search: Annotated[
        str | None,
        typer.Option(
            metavar="OPTIONS",
            help="Try settings of each task and keep the best on validation images: lr,rank,method or lr=1e-3:1e-2.",
        ),
    ] = None
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="Try all settings for few epochs, and the better third for more.")
    ] = True
    workers: Workers = None
    ray: RayAddress = None

    def check(self) -> None:
        """Raise `InvalidSettingError` for options that exclude each other."""
        if self.no_publish and self.alias:
            raise InvalidSettingError("--no-publish makes no version: leave out --alias")


@app.command("fit-many", epilog=example(
    "fit-many plan.toml",
    "fit-many plan.csv --epochs 4 --criterion ridge --format json",
    "fit-many ./datasets --search lr,rank --patience 2 --out work",
    "fit-many plan.toml --search method=lora:ssf,lr=1e-3:3e-3 --no-prune",
    "fit-many plan.toml --ray 10.0.0.1:6379 --out /shared/work --store s3://models/onetrunk",
))  # fmt: skip
@with_store(write=True)
@with_groups
def fit_many(
    options: StoreOptions,
    context: typer.Context,
    plan: Annotated[
        Path,
        typer.Argument(
            help="TOML with [[task]] tables, or CSV: name, data and options of fit for each; or a folder of data sets."
        ),
    ],
    *,
    backbone: Annotated[  # noqa: ARG001  # the rows get it with all that the context holds
        str, typer.Option(help="A backbone of the store, a packaged one, or a timm name.")
    ] = DEFAULT_BACKBONE,
    adapter: AdapterOptions,
    recipe: RecipeOptions,
    score: ScoreOptions,
    schedule: ScheduleOptions,
    images: DataOptions,
    run: RunOptions,
    dry_run: DryRun = False,
) -> None:
    """Tune the tasks of a plan as fit does, all at once; what fails stops no other, and is named at the end."""
    from onetrunk.many.fit_many import check_jobs

    run.check()
    fit_config(adapter, recipe, score, schedule, seed=images.seed)  # what is wrong of all rows is said once
    jobs = jobs_of(read_plan(plan), chosen(context), run.search)
    if not run.no_publish:
        with contextlib.suppress(StoreNotFoundError), options.open() as store:
            check_jobs(store, jobs)
    if dry_run:
        print_rows([describe_job(job) for job in jobs], options.fmt)
        log_dry_run()
        return
    outcomes = tune_all(options, jobs, run, out=run.out or Path(f"{plan.resolve().stem}-work"))
    print_rows([one.to_dict() for one in outcomes], options.fmt, (*COLUMNS, "settings") if run.search else COLUMNS)
    failed = [outcome for outcome in outcomes if outcome.problem is not None]
    for outcome in failed:
        log_to_stderr(f"{outcome.task}: {outcome.problem}")
    if failed:
        raise DataError(f"{len(failed)} of {len(jobs)} tasks failed: each is named above with the reason")


def tune_all(options: StoreOptions, jobs: Sequence[FitJob], run: RunOptions, *, out: Path) -> Sequence[FitOutcome]:
    """Tune the jobs, with their progress, and publish them unless nothing is to be published."""
    from onetrunk.many.fit_many import fit_many

    with contextlib.ExitStack() as stack:
        stack.enter_context(telling_what_is_kept())
        return fit_many(
            None if run.no_publish else stack.enter_context(options.open(create=True)),
            jobs,
            out=out,
            catalogue=options.catalogue,
            backbones=options.url,
            workers=run.workers,
            ray_address=run.ray,
            prune=run.prune,
            watch=stack.enter_context(show_many(terminal(stderr=True), len(jobs))),
        )


def chosen(context: typer.Context) -> Mapping[str, object]:
    """Return the options that the command line, the environment or --config gave, by their names without dashes."""
    given = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name != "DEFAULT":
            given[max(parameter.opts, key=len).removeprefix("--")] = context.params[str(parameter.name)]
    return given


def jobs_of(plan: Plan, given: Mapping[str, object], search: str | None) -> list[FitJob]:
    """Return the rows as jobs, their options before those of the command line, and these before the plan's."""
    from onetrunk.many.fit_many import refuse

    parser, settings = RowParser(), parse_search(search)
    layers = (plan.shared, {key: value for key, value in given.items() if key in parser.names})
    jobs, faults = [], []
    for row in plan.rows:
        try:
            job = parser.job(row, *layers, row.options)
            tried = {title_of(one): parser.job(row, *layers, row.options, one).config for one in settings}
            jobs.append(replace(job, choices=tried))
        except OnetrunkError as error:
            faults.append(f"{row.place} ({row.name}): {error}")
    refuse(faults, len(plan.rows))
    return jobs


def describe_job(job: FitJob) -> dict[str, object]:
    tune = job.config.tune
    fields: dict[str, object] = {"task": job.task, "data": job.data, "backbone": job.backbone, "method": tune.method}
    fields |= {"rank": tune.rank, "lr": tune.learning_rate, "epochs": tune.epochs, "batch_size": tune.batch}
    return {**fields, "settings": len(job.choices) or 1}
