"""Whether a store answers as the model does: versions and names, bytes, pages."""

from __future__ import annotations

from pathlib import Path

from store.accounting.report import storage_report
from store.records.listing import Search, VersionListing
from store.registry.store import Store, Version
from support.model_records import ModelRule
from support.store_model import Model


def check_answers(store: Store, model: Model) -> None:
    """Compare every version, listing and name, removed ones included."""
    rows, reader = store.versions(removed=True), store.queries
    assert [(row.task, row.number, row.digest, row.removed_at is not None) for row in rows] == [
        (name, number, kept.digest, kept.removed)
        for name, task in sorted(model.tasks.items())
        for number, kept in sorted(task.versions.items())
    ]
    listed = {(row.task, row.version): row for name in model.tasks for row in reader.list_versions(name, removed=True)}
    for row in rows:
        _check_listed(row, listed[row.task, row.number], model)
    assert {(task, alias): number for task, alias, number in reader.all_aliases()} == {
        (name, alias): number for name, task in model.tasks.items() for alias, number in task.aliases.items()
    }
    assert reader.next_versions() == {name: task.next for name, task in model.tasks.items()}
    rules = {(r.task, r.alias): ModelRule(r.protected, r.max_drop, r.min_accuracy) for r in store.rules()}
    assert rules == model.rules
    assert {record.name: record.id.fingerprint for record in store.backbones()} == {
        name: backbone.fingerprint for name, backbone in model.backbones.items()
    }
    assert {key.id: key.revoked_at is None for key in reader.api_keys()} == model.keys
    assert {lease.id: frozenset(lease.digests) for lease in store.leases()} == model.leases


def _check_listed(version: Version, row: VersionListing, model: Model) -> None:
    kept = model.tasks[version.task].versions[version.number]
    named = model.tasks[version.task].aliases.items()
    assert row.tags == model.tags_of(version.task, version.number)
    assert row.aliases == version.aliases == tuple(sorted(alias for alias, at in named if at == version.number))
    assert row.nbytes == version.nbytes == sum(kept.blobs.values())
    assert (row.backbone, row.classes, row.depth, row.blocks) == (kept.backbone, 3, 1, 4)
    assert (row.digest, row.removed_at) == (version.digest, version.removed_at)


def check_bytes(store: Store, model: Model) -> None:
    """Compare the report with the files, to the byte, and with what the model knows of them."""
    report = storage_report(store)
    counted = report.places
    parts = (counted.live_nbytes, counted.reclaimable_nbytes, counted.garbage_nbytes, counted.overhead_nbytes)
    files = [path.stat().st_size for path in store.root.rglob("*") if path.is_file()]
    assert report.total_nbytes == sum(parts) == sum(files)
    live = model.referenced(removed=False)
    assert counted.live_nbytes == sum(nbytes for digest, nbytes in model.present.items() if digest in live)
    assert counted.reclaimable_nbytes == sum(nbytes for digest, nbytes in model.present.items() if digest not in live)
    assert counted.garbage_nbytes == 0


def check_pages(store: Store, model: Model, search: Search, limit: int) -> None:
    """Read every page of a search: in order, nothing twice, nothing left out, each row as its task's listing has it."""
    alias = search.alias or "latest"
    places = [(name, task.aliases[alias]) for name, task in sorted(model.tasks.items()) if alias in task.aliases]
    expected = [place for place in places if _is_wanted(*place, model, search)]
    pages = [store.search(search, limit=limit)]
    while pages[-1].next is not None:
        pages.append(store.search(search, limit=limit, after=pages[-1].next))
    assert [(row.task, row.version) for page in pages for row in page.rows] == expected
    assert [len(page.rows) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert all(row in store.list_versions(row.task) for page in pages for row in page.rows)


def _is_wanted(name: str, number: int, model: Model, search: Search) -> bool:
    kept = model.tasks[name].versions[number]
    return (
        (search.text or "").lower() in name
        and search.tags.items() <= model.tags_of(name, number).items()
        and search.backbone in (None, kept.backbone, model.backbones[kept.backbone].fingerprint)
        and search.method in (None, "lora")
        and search.tenant in (None, name.split("/")[0] if "/" in name else "")
    )


def blobs_of(root: Path) -> dict[str, int]:
    """Return the sizes of the blobs on disk by their names."""
    return {path.name: path.stat().st_size for path in (root / "blobs").rglob("*") if path.is_file()}
