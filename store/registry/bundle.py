"""Versions in one self-contained file, for a machine that no network reaches.

The file is a plain tar (`bundle_archive`): `bundle.json`, then every manifest, blob, backbone record and backbone as
`blobs/<sha256>`. Equal versions give equal bytes. A version's digest is that of its manifest, which names the task and
the backbone. Imported under the same names it stays the same; under others the manifest differs, the blobs do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from store.adapters.backbone_fingerprint import check_fingerprint
from store.adapters.checkpoint import check
from store.adapters.manifests import build_manifest
from store.errors import BackboneNotFoundError, ConflictError, FormatError, InvalidSettingError
from store.records.backbone import BackboneRecord, adopt_remedy
from store.records.blob import Blob, canonical_json
from store.records.refs import check_name
from store.records.version import Version
from store.registry.bundle_archive import INDEX, REMEDY, blob_name, new_file, write_end, write_member
from store.registry.bundle_contents import (
    MAX_INDEX_NBYTES,
    Bundle,
    BundledBackbone,
    BundledVersion,
    Contents,
    check_sizes,
    open_bundle,
)
from store.registry.publish import PublishOptions
from store.registry.read_only_store import ReadOnlyStore
from store.registry.store import Store


@dataclass(frozen=True)
class BundleSummary:
    """What a bundle holds: versions as `TASK:NUMBER`, and the size of the file."""

    versions: tuple[str, ...]
    nbytes: int


def export_bundle(
    store: ReadOnlyStore, refs: Sequence[str], destination: str | Path | BinaryIO, *, with_backbone: bool = True
) -> BundleSummary:
    """Write the versions to a new file, with the weights of their backbones where the store holds these."""
    if isinstance(refs, str):
        raise InvalidSettingError(f"refs {refs!r} is one string: give a list, [{refs!r}]")
    destination = Path(destination) if isinstance(destination, str) else destination
    resolved = {(v.task, v.number): v for v in map(store.resolve, refs)}
    versions = [resolved[key] for key in sorted(resolved)]
    if not versions:
        raise InvalidSettingError("no version to export: name at least one")
    backbones = {name: store.backbone(name) for name in sorted({v.manifest.backbone for v in versions})}
    records = {name: canonical_json(dataclasses.asdict(record)) for name, record in backbones.items()}
    contents = Contents(
        versions=tuple(BundledVersion(v.task, v.number, v.aliases, v.manifest_blob) for v in versions),
        backbones=tuple(BundledBackbone(name, Blob.of(data)) for name, data in records.items()),
    )
    weights = [record.weights for record in backbones.values() if record.weights is not None and with_backbone]
    record_blobs = {Blob.of(data): data for data in records.values()}
    blobs = {*record_blobs, *weights, *(blob for v in versions for blob in (v.manifest_blob, *v.manifest.blobs))}
    index = contents.to_json()
    if len(index) > MAX_INDEX_NBYTES:
        raise InvalidSettingError(f"{len(versions)} versions are too many for one bundle: export them in parts")
    for version in versions:
        check_sizes(version.manifest, f"{version.task}:{version.number}")
    with new_file(destination) as file:
        nbytes = write_member(file, INDEX, index)
        for blob in sorted(blobs, key=lambda blob: blob.sha256):
            nbytes += write_member(file, blob_name(blob.sha256), record_blobs.get(blob) or store.read(blob))
        nbytes += write_end(file)
    return BundleSummary(tuple(map(str, contents.versions)), nbytes)


def import_bundle(
    store: Store,
    source: str | Path | BinaryIO,
    *,
    task: str | None = None,
    tenant: str | None = None,
    aliases: tuple[str, ...] = (),
    add_backbone: bool = True,
) -> list[Version]:
    """Publish the versions of the bundle, in its order, and point the aliases at the last version of each task.

    Nothing is written before all of it is checked as `publish` would; then each version is published whole or not at
    all. What the store has already stays as it is.
    `task` renames the only task of the bundle; `tenant` puts every task under that tenant.
    """
    source = Path(source) if isinstance(source, str) else source
    with open_bundle(source) as bundle:
        names = _names(bundle.contents.versions, task, tenant)
        for alias in aliases:
            check_name(alias, "alias")
        bundle.check_members()
        records = {b.fingerprint: _record(store, bundle, b, add=add_backbone) for b in bundle.contents.backbones}
        plans = [_plan(bundle, version, names[version.task], records) for version in bundle.contents.versions]
        for record in records.values():
            _add_backbone(store, bundle, record)
        last = {plan.task: plan for plan in plans}
        for plan in plans:
            _publish(store, bundle, plan, aliases if plan is last[plan.task] else ())
        return [store.resolve(f"{plan.task}@sha256:{plan.digest}") for plan in plans]


@dataclass(frozen=True)
class _Plan:
    """One version to publish: `task` is its name in the store, `digest` that of its manifest there."""

    version: BundledVersion
    task: str
    digest: str


def _names(versions: Iterable[BundledVersion], task: str | None, tenant: str | None) -> Mapping[str, str]:
    """Map each task of the bundle to its name in the store."""
    tasks = list(dict.fromkeys(version.task for version in versions))
    if task is not None and (tenant is not None or len(tasks) > 1):
        raise InvalidSettingError(f"task {task!r} is one name, the bundle holds {', '.join(tasks)[:200]}: leave it out")
    if task is not None:
        return {tasks[0]: check_name(task, "task")}
    if tenant is None:
        return {name: name for name in tasks}
    names = {name: check_name(f"{tenant}/{name.rpartition('/')[2]}", "task") for name in tasks}
    if len(set(names.values())) < len(names):
        raise ConflictError(f"under tenant {tenant!r} two tasks of the bundle have one name: import them one by one")
    return names


def _record(store: Store, bundle: Bundle, backbone: BundledBackbone, *, add: bool) -> BackboneRecord:
    """Return the backbone's record as the store has it, or will have it; check the weights in the bundle against it."""
    bundled = bundle.record(backbone)
    complete = bundled.weights is not None and bundle.holds(bundled.weights)
    if bundled.weights is not None and complete:
        check_fingerprint(bundled, bundle.read(bundled.weights))
    if store.queries.backbone(backbone.fingerprint) is not None:
        known = store.backbone(backbone.fingerprint)
        return dataclasses.replace(known, weights=known.weights or bundled.weights) if add and complete else known
    if not add or not complete:
        raise BackboneNotFoundError(
            f"the store has no backbone {backbone.fingerprint[:16]}… ({bundled.name}), and none is taken from "
            f"{bundle.where}: add it with {adopt_remedy(bundled)}, then import again"
        )
    holder = store.queries.backbone(bundled.name)
    taken = holder is not None and holder.name == bundled.name
    return dataclasses.replace(bundled, name=f"{bundled.name}-{backbone.fingerprint[:12]}") if taken else bundled


def _plan(bundle: Bundle, version: BundledVersion, task: str, records: Mapping[str, BackboneRecord]) -> _Plan:
    """Check the version as `publish` would, and that publishing its files gives its manifest."""
    manifest = bundle.manifest(version)
    record = records.get(manifest.backbone)
    if record is None:
        raise FormatError(
            f"{bundle.where}: {INDEX} names no backbone {manifest.backbone[:80]!r} for {version}: {REMEDY}"
        )
    checkpoint = bundle.checkpoint(manifest)
    original = dataclasses.replace(record, name=manifest.backbone_name)
    fit = check(checkpoint, record, manifest.depth)
    if build_manifest(manifest.task, checkpoint, fit, original, manifest.depth).manifest != manifest:
        raise FormatError(f"{bundle.where}: the manifest of {version} is not that of its files: {REMEDY}")
    renamed = dataclasses.replace(manifest, task=task, backbone_name=record.name)
    return _Plan(version, task, Blob.of(renamed.to_json()).sha256)


def _add_backbone(store: Store, bundle: Bundle, record: BackboneRecord) -> None:
    row = store.queries.backbone(record.id.fingerprint)
    lacks = row is None or store.backbone(record.id.fingerprint).weights is None
    if lacks and record.weights is not None:
        store.add_backbone(record, bundle.read(record.weights))


def _publish(store: Store, bundle: Bundle, plan: _Plan, aliases: tuple[str, ...]) -> None:
    """Publish the version; where the task has it already, only move the aliases that point elsewhere."""
    known = store.queries.find(plan.task, digest=plan.digest)
    if known is None:
        checkpoint = bundle.checkpoint(bundle.manifest(plan.version))
        where = f"{bundle.where}: {plan.version}"
        published = store.publish_checkpoint(
            plan.task, checkpoint, where=where, options=PublishOptions(aliases=aliases)
        )
        assert published.digest == plan.digest, plan
        return
    for alias in aliases:
        if alias not in known.aliases:
            store.set_alias(plan.task, alias, known.version)
