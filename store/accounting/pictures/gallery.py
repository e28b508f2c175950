"""All pictures of a report: the door of this room."""

from __future__ import annotations

from store.accounting.pictures.backbone_map import backbone_map
from store.accounting.pictures.drawing import Picture
from store.accounting.pictures.growth_chart import growth_chart
from store.accounting.pictures.scaling import scaling
from store.accounting.pictures.task_bars import task_bars
from store.accounting.report import StorageReport


def pictures(report: StorageReport) -> tuple[Picture, ...]:
    """Return bytes by task, bytes against tasks, each backbone with where tasks leave, and growth."""
    maps = [
        backbone_map(backbone, report.tasks, name="backbone" if not number else f"backbone-{number + 1}")
        for number, backbone in enumerate(report.backbones)
        if backbone.tasks
    ]
    return (task_bars(report), scaling(report), *maps, growth_chart(report))
