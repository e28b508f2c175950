"""What `fit --dry-run` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from onetrunk.cli.output import Format, log_dry_run, print_record, print_rows

if TYPE_CHECKING:
    from sls.data.dataset import Dataset
    from sls.pipeline.config import FitConfig
    from store.weights.backbones import Backbone


def print_plan(task: str, dataset: Dataset, backbone: Backbone, config: FitConfig, fmt: Format) -> None:
    """Print what the fit would do."""
    from sls.pipeline.plan import plan_fit
    from sls.pipeline.preflight import check_run, check_stages

    check_stages(config, backbone)
    config = config.effective
    check_run(dataset, backbone, config.tune, max_drop=config.max_drop)
    plan = plan_fit(dataset, backbone, config.trainings, dtype=config.save_dtype)
    fields: dict[str, object] = {"task": task, "backbone": backbone.record.name, "method": config.tune.method}
    fields["learning rate"] = config.tune.rate
    fields |= {"classes": len(dataset.classes), **{part: sum(plan.images[part].values()) for part in plan.images}}
    fields |= {f"steps to {stage}": steps for stage, steps in plan.steps.items()}
    fields |= {"minutes, about": round(plan.seconds / 60, 1), "nbytes": plan.nbytes}
    if fmt is Format.TABLE:
        print_rows(
            [{"class": name, **{part: plan.images[part][name] for part in plan.images}} for name in dataset.classes],
            fmt,
        )
        typer.echo()
    print_record({**fields, "images": plan.images, "notes": dataset.notes}, fmt, fields)
    log_dry_run()
