"""Compare two versions: backbone, depth, evidence, accuracy, adapter, labels, bytes and lineage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from store.adapters.checkpoint import parse_classes
from store.records.evidence import Accuracy, Lineage
from store.records.manifest import Manifest
from store.registry.read_only_store import ReadOnlyStore


@dataclass(frozen=True)
class Side:
    """A version to compare; `classes` are its labels in the order of the head's rows."""

    manifest: Manifest
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One field that differs, with JSON values; None where a side does not have it."""

    field: str
    left: object
    right: object


def diff(store: ReadOnlyStore, left: str, right: str) -> tuple[Difference, ...]:
    """Compare the versions that two refs name; raise `NotFoundError` where one names none."""
    manifests = [store.resolve(ref).manifest for ref in (left, right)]
    return compare(*(Side(manifest, parse_classes(store.read(manifest.head.labels))) for manifest in manifests))


def compare(left: Side, right: Side) -> tuple[Difference, ...]:
    """Return the fields that differ, the most important first."""
    rows = [*_compare(_head(left), _head(right)), *_modules(left, right), *_labels(left.classes, right.classes)]
    return (*rows, *_compare(_rest(left), _rest(right)))


def _compare(left: Mapping[str, object], right: Mapping[str, object]) -> Iterator[Difference]:
    for field in dict.fromkeys([*left, *right]):
        if left.get(field) != right.get(field):
            yield Difference(field, left.get(field), right.get(field))


def _head(side: Side) -> dict[str, object]:
    manifest, index = side.manifest, side.manifest.prune_index
    return {
        "task": manifest.task,
        "backbone": manifest.backbone_name,
        "backbone fingerprint": manifest.backbone,
        "depth": index.depth,
        "blocks": index.blocks,
        "criterion": index.criterion,
        "alpha": index.alpha,
        "threshold": index.threshold,
        "scores": list(index.scores),
        "seed": index.seed,
        "samples": index.samples,
        "reason": index.reason,
        "heads kept": index.width and list(index.width.heads_kept),
        "units kept": index.width and list(index.width.units_kept),
        "width index": index.width and index.width.kept,
        "patches kept": index.tokens and list(index.tokens.patches_kept),
        "token index": index.tokens and index.tokens.kept,
        **_accuracies(manifest),
        "method": manifest.adapter.method,
        "rank": manifest.adapter.rank,
    }


def _accuracies(manifest: Manifest) -> dict[str, object]:
    certificate = manifest.certificate
    if certificate is None:
        return {}
    values = {
        "full": certificate.full,
        "cut": certificate.cut,
        "cut before retune": certificate.cut_before_retune,
    }
    rows: dict[str, object] = {f"accuracy {name}": _accuracy(v) for name, v in values.items() if v is not None}
    if certificate.class_counts is not None:
        rows["macro F1"] = certificate.class_counts.macro_f1
    if certificate.calibration is not None:
        rows |= {"calibration error": certificate.calibration.ece, "temperature": certificate.calibration.temperature}
    if certificate.rounding is not None:
        rows["stored as"] = certificate.rounding.dtype
    return rows


def _accuracy(accuracy: Accuracy) -> dict[str, object]:
    return {
        "correct": accuracy.correct,
        "total": accuracy.total,
        "value": accuracy.value,
        "interval": list(accuracy.interval),
    }


def _modules(left: Side, right: Side) -> Iterator[Difference]:
    yield from _only("modules", left.manifest.adapter.modules, right.manifest.adapter.modules)


def _labels(left: Sequence[str], right: Sequence[str]) -> Iterator[Difference]:
    """Yield the labels that one version alone has, and those that both have in another order."""
    yield from _compare({"classes": len(left)}, {"classes": len(right)})
    yield from _only("labels", left, right)
    common = set(left) & set(right)
    pairs = zip((x for x in left if x in common), (x for x in right if x in common), strict=True)
    moved = [(one, other) for one, other in pairs if one != other]
    if moved:
        yield Difference("labels in another order", [one for one, _ in moved], [other for _, other in moved])


def _only(kind: str, left: Sequence[str], right: Sequence[str]) -> Iterator[Difference]:
    removed = [name for name in left if name not in set(right)]
    added = [name for name in right if name not in set(left)]
    if removed or added:
        yield Difference(f"{kind} in one alone", removed, added)


def _rest(side: Side) -> dict[str, object]:
    adapter, head = side.manifest.adapter, side.manifest.head
    files = {
        "adapter config": adapter.config,
        "adapter weights": adapter.weights,
        "head weights": head.weights,
        "class names": head.labels,
    }
    manifest = side.manifest.to_json()
    fields: dict[str, object] = {"nbytes": len(manifest) + sum(blob.nbytes for blob in set(side.manifest.blobs))}
    fields |= {name: f"sha256:{blob.sha256}" for name, blob in files.items()}
    return fields | dict(_flatten("lineage", _lineage(side.manifest.lineage)))


def _lineage(lineage: Lineage | None) -> Mapping[str, object]:
    return {} if lineage is None else vars(lineage)


def _flatten(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield each leaf of nested objects by its path: `lineage.recipe.tune.epochs`."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _flatten(f"{name}.{key}", inner)
