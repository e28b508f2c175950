"""Find a task by name: embedded, an `.npz` file, a folder of class folders, or a data set that timm reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data import create_dataset

from sls.data.dataset import Dataset, Split, check_labels
from sls.data.embedded import EMBEDDED, PARTS, render
from sls.data.npz import read_npz
from store.errors import DataError
from store.weights.preprocessing import to_rgb

PREFIX = "onetrunk/"
SIZES = {"train": 400, "validation": 100, "test": 400}
VALIDATION_NAMES = ("validation", "val")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
UNREAD = frozenset({".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm", ".svg", ".tif", ".tiff"})
"""Other images: left out without a word, they would be missed."""


def load_dataset(source: str, *, root: Path | None = None, limit: int | None = None, seed: int = 0) -> Dataset:
    """Load a task; `root` is where timm keeps a named data set, `limit` the most images to take for each part.

    Where the source has no validation or test part, it is drawn from the training part, class by class, by digest.
    """
    if source.startswith(PREFIX):
        return _embedded(source.removeprefix(PREFIX), limit, seed)
    if Path(source).is_dir():
        return _folder(Path(source), limit)
    if source.endswith(".npz"):
        return _complete(Path(source).stem, *read_npz(Path(source)), limit)
    if "/" not in source or Path(source).is_absolute():
        raise DataError(f"no data at {source!r}: give a folder, an .npz file, onetrunk/NAME, or timm's torch/cifar10")
    return _timm(source, root, limit)


def _embedded(name: str, limit: int | None, seed: int) -> Dataset:
    parts = [Split(*render(name, part, min(SIZES[part], limit or SIZES[part]), seed=seed)) for part in PARTS]
    return Dataset(name, EMBEDDED[name].classes, *parts)


def _folder(root: Path, limit: int | None) -> Dataset:
    if not (root / "train").is_dir():
        classes = _class_names(root)
        return _complete(root.name, classes, {"train": _files(root, classes)}, limit)
    classes = _class_names(root / "train")
    if all((root / name).is_dir() for name in VALIDATION_NAMES):
        raise DataError(f"{root} has both {' and '.join(VALIDATION_NAMES)}: keep one of the two")
    names = {"train": ("train",), "validation": VALIDATION_NAMES, "test": ("test",)}
    parts = {
        part: _files(root / name, classes)
        for part, candidates in names.items()
        for name in candidates
        if (root / name).is_dir()
    }
    return _complete(root.name, classes, parts, limit)


def _class_names(root: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        raise DataError(f"{root} has {len(names)} class folder ({', '.join(names)}): give at least two, one a class")
    return names


def _files(root: Path, classes: tuple[str, ...]) -> Split:
    strangers = sorted({p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(classes))
    if strangers:
        raise DataError(f"{root} has class {strangers[0]!r}, which is not trained on: remove it or add it to train")
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if _is_image(path)
    ]
    return Split(tuple(path for path, _ in found), np.array([label for _, label in found], dtype=np.int64))


def _is_image(path: Path) -> bool:
    if path.name.startswith(".") or path.is_dir():
        return False
    if path.suffix.lower() in UNREAD:
        raise DataError(f"{path} is of a kind that is not read: convert it to PNG, JPEG, WebP or BMP, or remove it")
    return path.suffix.lower() in SUFFIXES


def _timm(source: str, root: Path | None, limit: int | None) -> Dataset:
    train, names = _timm_part(source, root, "train")
    parts = {"train": train}
    # timm takes `validation` and `test` for the same images, and the whole folder for a part that it does not find
    try:
        test, _ = _timm_part(source, root, "test")
    except DataError:
        test = train
    if not set(train.digests) <= set(test.digests):
        parts["test"] = test
    count = int(max(part.labels.max(initial=0) for part in parts.values())) + 1
    return _complete(source.replace("/", "-"), names or tuple(map(str, range(count))), parts, limit)


def _timm_part(source: str, root: Path | None, part: str) -> tuple[Split, tuple[str, ...]]:
    where = root or Path()
    try:
        dataset = create_dataset(source, root=str(where), split=part, download=True, input_img_mode=None)
        split = _materialise(dataset)
    except (ValueError, AssertionError, RuntimeError, OSError, KeyError, ImportError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"timm cannot read {source!r} in {where} ({line}): check the name and root") from None
    return split, tuple(map(str, getattr(dataset, "classes", ())))


def _materialise(dataset: Iterable[tuple[Image.Image, int]]) -> Split:
    images, labels = [], []
    for image, label in dataset:
        images.append(np.asarray(to_rgb(image), dtype=np.uint8))
        labels.append(int(label))
    return Split(tuple(images), np.array(labels, dtype=np.int64))


# --------------------------------------------------------------------------------------------- drawing what is missing


def _complete(name: str, classes: tuple[str, ...], parts: dict[str, Split], limit: int | None) -> Dataset:
    """Draw absent parts from the training part: a fifth of each class to test on, a fifth to watch."""
    check_labels(name, parts["train"].labels, len(classes))
    _check_counts(name, classes, parts["train"], single="test" in parts)
    train = parts["train"]
    test, validation = parts.get("test"), parts.get("validation")
    if test is None:
        train, test = _draw(train, least=1)
    if validation is None:
        train, validation = _draw(train, least=0)
    return Dataset(name, classes, *(_first(part, limit) for part in (train, validation, test)))


def _check_counts(name: str, classes: tuple[str, ...], train: Split, *, single: bool) -> None:
    counts = np.bincount(train.labels, minlength=len(classes))[: len(classes)]
    least = 1 if single else 2
    if counts.min(initial=least) < least:
        raise DataError(
            f"{name}: class {classes[int(counts.argmin())]!r} has {counts.min()} image, at least {least} needed "
            "to train and to test on: add images or leave the class out"
        )


def _draw(split: Split, *, least: int) -> tuple[Split, Split]:
    """Part a split in two, class by class in order of digest: four fifths, and one fifth or `least`."""
    order = split.content_order()
    drawn: list[int] = []
    for label in np.unique(split.labels):
        own = order[split.labels[order] == label]
        drawn.extend(own[: max(least, len(own) // 5)].tolist())
    kept = sorted(set(range(len(split))) - set(drawn))
    return _take(split, kept), _take(split, sorted(drawn))


def _first(split: Split, limit: int | None) -> Split:
    """Take at most `limit` images, the classes in turn."""
    if limit is None or len(split) <= limit:
        return split
    rank = np.zeros(len(split), dtype=np.int64)
    for label in np.unique(split.labels):
        own = np.flatnonzero(split.labels == label)
        rank[own] = np.arange(len(own))
    return _take(split, sorted(np.lexsort((split.labels, rank))[:limit].tolist()))


def _take(split: Split, rows: list[int]) -> Split:
    return Split(tuple(split.images[row] for row in rows), split.labels[rows])
