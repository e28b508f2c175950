"""Load a dataset from its source: an embedded one, an `.npz` file, class folders, or a dataset that timm reads."""

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
from store.images.decoding import to_rgb

PREFIX = "onetrunk/"
SIZES = {"train": 400, "validation": 100, "test": 400}
VALIDATION_NAMES = ("validation", "val")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
UNREAD = frozenset({".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm", ".svg", ".tif", ".tiff"})
"""Other image formats: refused, as a user would not notice that such files were ignored."""


def load_dataset(source: str | Path, *, root: Path | None = None, limit: int | None = None, seed: int = 0) -> Dataset:
    """Load a dataset: `onetrunk/NAME` (embedded), a folder of class folders, an `.npz` file, or a name that timm reads.

    A `Path` is a folder or a file, never a name. `root` is where timm keeps a named dataset; `limit` is the greatest
    number of images in each split. A missing validation or test split is drawn from the training split, class by
    class, by digest. Raises `DataError`.
    """
    path, name = Path(source), str(source)
    if isinstance(source, str) and name.startswith(PREFIX):
        return _embedded(name.removeprefix(PREFIX), limit, seed)
    if path.is_dir():
        return _folder(path, limit)
    if name.endswith(".npz"):
        return _complete(path.stem, *read_npz(path), limit)
    if isinstance(source, Path) or "/" not in name or path.is_absolute():
        raise DataError(f"no data at {name!r}: give a folder, an .npz file, onetrunk/NAME, or timm's torch/cifar10")
    return _timm(name, root, limit)


def _embedded(name: str, limit: int | None, seed: int) -> Dataset:
    parts = [Split(*render(name, part, min(SIZES[part], limit or SIZES[part]), seed=seed)) for part in PARTS]
    return Dataset(name, EMBEDDED[name].classes, *parts)


def _folder(root: Path, limit: int | None) -> Dataset:
    if not (root / "train").is_dir():
        classes = _class_names(root)
        return _complete(root.name, classes, {"train": _files(root, classes)}, limit)
    classes = _class_names(root / "train")
    if all((root / name).is_dir() for name in VALIDATION_NAMES):
        raise DataError(f"{root} has both {' and '.join(VALIDATION_NAMES)}: remove one of the two")
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
        raise DataError(
            f"{root} has {len(names)} class folder ({', '.join(names)}): give at least two, one for each class"
        )
    return names


def _files(root: Path, classes: tuple[str, ...]) -> Split:
    unknown = sorted({p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(classes))
    if unknown:
        raise DataError(f"{root} has class {unknown[0]!r}, which is not in train: remove it or add it to train")
    images = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if _is_image(path)
    ]
    return Split(tuple(path for path, _ in images), np.array([label for _, label in images], dtype=np.int64))


def _is_image(path: Path) -> bool:
    if path.name.startswith(".") or path.is_dir():
        return False
    if path.suffix.lower() in UNREAD:
        raise DataError(f"{path} has an unsupported format: convert it to PNG, JPEG, WebP or BMP, or remove it")
    return path.suffix.lower() in SUFFIXES


def _timm(source: str, root: Path | None, limit: int | None) -> Dataset:
    train, names = _timm_part(source, root, "train")
    parts = {"train": train}
    # timm reads the same images for `validation` and `test`, and the whole folder if a split is missing
    try:
        test, _ = _timm_part(source, root, "test")
    except DataError:
        test = train
    if not set(train.digests) <= set(test.digests):
        parts["test"] = test
    count = int(max(part.labels.max(initial=0) for part in parts.values())) + 1
    return _complete(source.replace("/", "-"), names or tuple(map(str, range(count))), parts, limit)


def _timm_part(source: str, root: Path | None, part: str) -> tuple[Split, tuple[str, ...]]:
    folder = root or Path()
    try:
        dataset = create_dataset(source, root=str(folder), split=part, download=True, input_img_mode=None)
        split = _read_all(dataset)
    except (ValueError, AssertionError, RuntimeError, OSError, KeyError, ImportError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"timm cannot read {source!r} in {folder} ({line}): check the name, or give `root=`") from None
    return split, tuple(map(str, getattr(dataset, "classes", ())))


def _read_all(dataset: Iterable[tuple[Image.Image, int]]) -> Split:
    images, labels = [], []
    for image, label in dataset:
        images.append(np.asarray(to_rgb(image), dtype=np.uint8))
        labels.append(int(label))
    return Split(tuple(images), np.array(labels, dtype=np.int64))


# ------------------------------------------------------------------------------------------------------ missing splits


def _complete(name: str, classes: tuple[str, ...], parts: dict[str, Split], limit: int | None) -> Dataset:
    """Draw the missing splits from the training split: a fifth of each class for the test, then for validation."""
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
            "for training and test: add images or leave the class out"
        )


def _draw(split: Split, *, least: int) -> tuple[Split, Split]:
    """Divide a split in two, class by class in the order of digests: four fifths, and one fifth or `least` images."""
    order = split.content_order()
    drawn: list[int] = []
    for label in np.unique(split.labels):
        rows = order[split.labels[order] == label]
        drawn.extend(rows[: max(least, len(rows) // 5)].tolist())
    kept = sorted(set(range(len(split))) - set(drawn))
    return _take(split, kept), _take(split, sorted(drawn))


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
