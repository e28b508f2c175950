"""From what a source holds to a dataset: draw the splits that it lacks, and refuse what could not be measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sls.data.dataset import Dataset, Split, check_class_names, check_labels
from sls.data.duplicates import find_duplicates, near_duplicates
from sls.data.left_out import SHOWN, counted, listed
from sls.data.raw import PARTS, RawDataset
from sls.data.scan import Scan
from store.errors import DataError


def complete(raw: RawDataset, scan: Scan, *, limit: int | None, allow_duplicates: bool) -> Dataset:
    """Look at every image, draw the missing splits from the training split, and check for duplicates.

    A missing split is a fifth of each class; images with equal pixels stay together. Raises `DataError`.
    """
    name, classes = raw.name, raw.classes
    check_class_names(name, classes)
    check_labels(name, raw.splits["train"].labels, len(classes))
    _check_counts(name, classes, raw.splits["train"], single="test" in raw.splits)
    drawn = [part for part in ("test", "validation") if part not in raw.splits]
    splits = dict(raw.splits) if drawn else {part: _first(split, limit) for part, split in raw.splits.items()}
    scan.look_at(list(splits.values()))
    notes = [*raw.notes]
    for part in drawn:
        splits["train"], splits[part] = _draw(name, classes, splits["train"], scan, least=int(part == "test"))
        notes.append(f"{part} split: {counted(len(splits[part]), 'image')} drawn from train, a fifth of each class")
    splits = {part: _first(splits[part], limit) for part in PARTS}
    found = find_duplicates(splits, scan)
    if found.conflicting and not allow_duplicates:
        raise DataError(f"{name}: {found.described()}: remove or relabel them, or go on with `allow_duplicates=True`")
    notes += [f"allowed: {found.described()}"] if found.conflicting else []
    if found.repeated:
        shown = listed(list(found.first_repeated), found.repeated)
        notes.append(f"{counted(found.repeated, 'image')} repeated within a split and label ({shown})")
    if near := near_duplicates(splits, scan):
        shown = listed(near[:SHOWN], len(near))
        notes.append(f"{counted(len(near), 'validation or test image')} like one of another split ({shown})")
    notes += _untested(classes, splits["test"])
    return Dataset(
        name,
        classes,
        splits["train"],
        splits["validation"],
        splits["test"],
        notes=tuple(notes),
        duplicates=found.conflicting,
    )


def _check_counts(name: str, classes: Sequence[str], train: Split, *, single: bool) -> None:
    counts = np.bincount(train.labels, minlength=len(classes))[: len(classes)]
    least = 1 if single else 2
    if counts.min(initial=least) < least:
        raise DataError(
            f"{name}: class {classes[int(counts.argmin())]!r} has {counts.min()} image, at least {least} needed "
            "for training and test: add images or leave the class out"
        )


def _untested(classes: Sequence[str], test: Split) -> list[str]:
    missing = sorted(set(range(len(classes))) - set(test.labels.tolist()))
    shown = listed([classes[label] for label in missing[:SHOWN]], len(missing))
    return (
        [f"{counted(len(missing), 'class')} without a test image, so without an accuracy ({shown})"] if missing else []
    )


def _draw(name: str, classes: Sequence[str], split: Split, scan: Scan, *, least: int) -> tuple[Split, Split]:
    """Divide a split in two, class by class in the order of digests: four fifths, and one fifth or `least` images."""
    order, facts = split.content_order(), scan.facts(split)
    drawn: list[int] = []
    for label in np.unique(split.labels):
        groups: dict[bytes, list[int]] = {}
        for row in order[split.labels[order] == label].tolist():
            groups.setdefault(facts[row].digest, []).append(row)
        count = sum(map(len, groups.values()))
        if least and len(groups) < 2:
            raise DataError(
                f"{name}: the {count} images of class {classes[label]!r} have the same pixels, at least 2 different "
                "ones needed for training and test: add images or leave the class out"
            )
        drawn += _fifth(list(groups.values()), max(least, count // 5))
    kept = sorted(set(range(len(split))) - set(drawn))
    return _take(split, kept), _take(split, sorted(drawn))


def _fifth(groups: list[list[int]], count: int) -> list[int]:
    """Take whole groups in turn while they fit into `count` rows, at least one where any is asked for."""
    rows: list[int] = []
    for group in groups[:-1]:  # the last one stays, so that something is left to train on
        if len(rows) + len(group) <= count:
            rows += group
    return rows or (min(groups, key=len) if count and len(groups) > 1 else [])


def _first(split: Split, limit: int | None) -> Split:
    """Take the first `limit` images, the classes in turn."""
    if limit is None or len(split) <= limit:
        return split
    rank = np.zeros(len(split), dtype=np.int64)
    for label in np.unique(split.labels):
        rows = np.flatnonzero(split.labels == label)
        rank[rows] = np.arange(len(rows))
    return _take(split, sorted(np.lexsort((split.labels, rank))[:limit].tolist()))


def _take(split: Split, rows: list[int]) -> Split:
    return Split(tuple(split.images[row] for row in rows), split.labels[rows])
