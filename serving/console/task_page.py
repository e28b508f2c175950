"""One task: its versions and aliases, the evidence of one version, its history, and who serves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from serving.console.charts import accuracy_chart, axis_low, estimates, score_chart
from serving.console.listings import adapted_blocks
from serving.console.measures import MOST_CLASSES, Width, class_table, measures, width_of
from serving.console.state import Answer, Shown, Visit
from store.errors import IntegrityError
from store.records.bounds import MAX_PAGE
from store.records.events import LATEST
from store.records.manifest import Manifest
from store.records.refs import Ref
from store.records.version import Version
from store.registry.tenant_store import TaskEvent

MOST_VERSIONS, MOST_EVENTS = 100, 40
DONE = {
    "promote": "The alias was moved.",
    "rollback": "The alias was rolled back.",
    "tag": "The tags were changed.",
    "remove": "Removed. Restore it below until the operator collects garbage.",
    "restore": "Restored.",
}


def show(visit: Visit) -> Answer:
    task = Ref.parse(visit.required("task")).task
    listed = visit.store.list_versions(task, removed=True)
    present = [row for row in listed if row.removed_at is None]
    values: dict[str, object] = {
        "task": task,
        "present": present[::-1][:MOST_VERSIONS],
        "removed": [row for row in listed if row.removed_at is not None][::-1][:MOST_VERSIONS],
        "count": len(present),
        "events": latest_events(visit, task),
        "most_events": MOST_EVENTS,
        "done": DONE.get(visit.text("done") or ""),
        "version": None,
    }
    if present:
        version = _chosen(visit, task, {row.version for row in present})
        values |= {
            "aliases": visit.store.aliases(task),
            "splits": {split.alias: split.words for split in visit.store.splits(task)},
            "rules": {rule.alias: rule for rule in reversed(visit.store.rules(task))},
            "tags": visit.store.tags(task),
            "own_tags": visit.store.tags(task, version.number),
            "leases": visit.store.holders(present),
            "version": version,
            **_evidence(visit, version),
            "width": _width(visit, version),
            **_labels(visit, version),
        }
    return Shown("task.html", values)


def _chosen(visit: Visit, task: str, numbers: set[int]) -> Version:
    """Return the version that the query asks for, else the latest, else any that is there."""
    number = visit.number("version")
    if number is None:
        latest = visit.store.aliases(task).get(LATEST)
        number = latest if latest in numbers else max(numbers)
    return visit.store.resolve(f"{task}:{number}")


def _evidence(visit: Visit, version: Version) -> dict[str, object]:
    manifest = version.manifest
    index, certificate = manifest.prune_index, manifest.certificate
    curve = () if certificate is None else certificate.curve
    return {
        "index": index,
        "certificate": certificate,
        "axis_low": None if certificate is None else axis_low(certificate),
        "estimates": () if certificate is None else estimates(certificate),
        "curve": accuracy_chart(curve, index.depth) if curve else None,
        "scores": score_chart(index),
        "lineage": list(_flatten("", vars(manifest.lineage))) if manifest.lineage else [],
        "files": _files(manifest),
        "adapted": adapted_blocks(visit, manifest),
    }


def _width(visit: Visit, version: Version) -> Width | None:
    index = version.manifest.prune_index
    if index.width is None and index.tokens is None:
        return None
    records = [record for record in visit.store.backbones() if record.id.fingerprint == version.manifest.backbone]
    return width_of(index, records[0] if records else None)


def _labels(visit: Visit, version: Version) -> dict[str, object]:
    certificate = version.manifest.certificate
    try:
        labels = visit.store.labels(f"{version.task}:{version.number}")
    except IntegrityError:
        labels = ()  # the page then says so: all else that it shows is in the manifest
    counts = None if certificate is None else certificate.class_counts
    return {
        "labels": labels[:MOST_CLASSES],
        "label_count": len(labels),
        "classes": class_table(counts, labels),
        "measures": measures(certificate),
    }


def _files(manifest: Manifest) -> dict[str, int]:
    adapter, head = manifest.adapter, manifest.head
    return {
        "adapter weights": adapter.weights.nbytes,
        "head weights": head.weights.nbytes,
        "adapter config": adapter.config.nbytes,
        "class names": head.labels.nbytes,
    }


def _flatten(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(f"{name}.{key}" if name else str(key), inner)
    elif value is not None:
        yield name, value


def latest_events(visit: Visit, task: str) -> list[TaskEvent]:
    """Return the newest events of the task, newest first."""
    events: list[TaskEvent] = []
    after = 0
    while page := visit.store.history(task, after=after, limit=MAX_PAGE):
        events, after = [*events, *page][-MOST_EVENTS:], after + len(page)
        if len(page) < MAX_PAGE:
            break
    return events[::-1]
