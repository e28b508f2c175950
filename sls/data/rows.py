"""From rows of images, labels and splits, as tables and archives have them, to splits of a dataset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sls.data.dataset import Split
from sls.data.image_source import EncodedSource
from sls.data.left_out import LeftOut, counted
from sls.data.raw import PARTS, RawDataset, normal, part_of
from store.errors import DataError

IMAGE_NAMES = ("path", "image", "img", "image_path", "file", "file_name", "filename", "filepath", "file_path")
LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "target")
PART_NAMES = ("split", "part", "subset", "set", "partition")
WHOLE = re.compile(r"[+-]?\d{1,15}")
FRACTION = re.compile(r"[+-]?(\d*\.\d+(e[+-]?\d+)?|\d+e[+-]?\d+)", re.IGNORECASE)
LISTED = re.compile(r"[\[({].*,.*[\])}]")
NO_LABEL = (None, "")
NO_SEVERAL = "tasks of several labels an image are not supported, give one class"
NO_REGRESSION = "regression is not supported, give classes"
FLAGS = ("0", "1", "0.0", "1.0", "true", "false")
MEASURED = 20
"""So many different whole numbers, most of them of one image alone, are measurements and not classes."""


@dataclass(frozen=True)
class Row:
    """An image, what the source says of its label and split, and where it says so."""

    image: EncodedSource
    label: object
    part: str | None
    place: str


def raw_from_rows(
    name: str, where: str, rows: Sequence[Row], left_out: LeftOut, *, classes: Sequence[str] | None = None
) -> RawDataset:
    """Divide the rows into splits; labels are names, or indices where `classes` are given. Raises `DataError`."""
    labelled = []
    for row in rows:
        absent = (*NO_LABEL, -1) if classes is not None else NO_LABEL  # as Hugging Face marks images without a label
        if row.label in absent or row.label != row.label:  # NaN, as pandas writes an empty cell
            left_out.add("without a label", row.place)
        else:
            labelled.append(row)
    if not labelled:
        raise DataError(f"{where} has no image with a label: give a label for each")
    parts = [_part_of(row) for row in labelled]
    if None in parts and any(parts):
        raise DataError(
            f"{labelled[parts.index(None)].place} has no split, others have: give one for each image, or none"
        )
    if any(parts) and "train" not in parts:
        raise DataError(f"{where} has no training images: name their split train")
    names = _indexed(labelled, classes) if classes is not None else _named(labelled)
    index = {name: label for label, name in enumerate(names[0])}
    labels = [index[name] for name in names[1]]
    splits = {}
    for part in PARTS:
        chosen = [i for i, own in enumerate(parts) if (own or "train") == part]
        if chosen:
            images = tuple(labelled[i].image for i in chosen)
            splits[part] = Split(images, np.array([labels[i] for i in chosen], dtype=np.int64))
    _check_trained(labelled, parts, names[1])
    return RawDataset(name, names[0], splits, left_out.notes)


def column(kind: str, names: Sequence[str], known: Sequence[str], where: str) -> str | None:
    """Return the column whose name is known for this kind of value; raise where two are."""
    found = [name for name in names if name.strip().casefold() in known]
    if len(found) > 1:
        raise DataError(f"{where} has columns {' and '.join(found)}, both for the {kind}: rename or remove one")
    return found[0] if found else None


def _part_of(row: Row) -> str | None:
    if row.part is None or not row.part.strip():
        return None
    part = part_of(row.part)
    if part is None:
        raise DataError(f"{row.place}: split {row.part!r} is unknown: name it train, validation or test")
    return part


def _indexed(rows: Sequence[Row], classes: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    for row in rows:
        _check_single(row)
        if type(row.label) is not int or not 0 <= row.label < len(classes):
            raise DataError(
                f"{row.place}: label {row.label!r} is not a class: labels reach beyond 0..{len(classes) - 1}"
            )
    names = [normal(name) for name in classes]
    return tuple(names), [names[row.label] for row in rows if isinstance(row.label, int)]


def _named(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes, numbers in their order and names in that of their letters, and each row's class."""
    names = [normal(_text(row)) for row in rows]
    known = set(names)
    _check_joined(rows, names)
    numbers = all(WHOLE.fullmatch(name) for name in known)
    if not numbers and all(WHOLE.fullmatch(name) or FRACTION.fullmatch(name) for name in known):
        one = next(row for row, name in zip(rows, names, strict=True) if FRACTION.fullmatch(name))
        raise DataError(f"{one.place}: label {one.label!r} is a number with a fraction: {NO_REGRESSION}")
    if numbers and len(known) >= MEASURED and 2 * len(known) > len(names):
        raise DataError(
            f"{rows[0].place}: label {rows[0].label!r} is one of {len(known):,} different numbers of "
            f"{len(names):,} images: {NO_REGRESSION}"
        )
    order = sorted(known, key=lambda name: (int(name), name)) if numbers else sorted(known)
    return tuple(order), names


def _check_joined(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Raise where a label joins classes: `cat|dog` beside `cat` and `dog`, or beside another label with `cat|`."""
    known = set(names)
    pieces = {
        name: [piece.strip() for piece in re.split(r"[|;]", name)] for name in known if "|" in name or ";" in name
    }
    shared = Counter(piece for several in pieces.values() for piece in set(several))
    for row, name in zip(rows, names, strict=True):
        listed = [piece.strip() for piece in re.split(r"[|;,]", name)]
        joined = len(listed) > 1 and known.issuperset(listed)
        if joined or any(shared[piece] > 1 for piece in pieces.get(name, ())):
            raise DataError(f"{row.place}: label {name!r} has several classes: {NO_SEVERAL}")


def check_label_columns(where: str, cells: Mapping[str, object]) -> None:
    """Raise where several columns, in place of one for the label, say yes or no."""
    flags = [name for name, value in cells.items() if str(value).strip().casefold() in FLAGS]
    if len(flags) > 1:
        shown = ", ".join(flags[:4]) + ", …" * (len(flags) > 4)
        raise DataError(f"{where}: columns {shown} say yes or no, one for each class: {NO_SEVERAL} in a column label")


def _check_single(row: Row) -> None:
    label = row.label
    if isinstance(label, list | tuple | Mapping) or (isinstance(label, str) and LISTED.fullmatch(label.strip())):
        raise DataError(f"{row.place}: label {label!r:.80} has several values: {NO_SEVERAL}")


def _text(row: Row) -> str:
    _check_single(row)
    label = row.label
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label).strip()


def _check_trained(rows: Sequence[Row], parts: Sequence[str | None], names: Sequence[str]) -> None:
    trained = {name for name, part in zip(names, parts, strict=True) if part in (None, "train")}
    for row, name in zip(rows, names, strict=True):
        if name not in trained:
            others = sum(other == name for other in names)
            raise DataError(
                f"{row.place} has class {name!r}, which is not in train ({counted(others, 'image')}): "
                "remove it or add it to train"
            )
