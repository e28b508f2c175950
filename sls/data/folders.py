"""Read a folder of class folders, with or without a folder for each split; what is not used is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sls.data.dataset import Split
from sls.data.image_source import SNIFFED_NBYTES, SUFFIXES, is_image, is_unsupported, place
from sls.data.left_out import SHOWN, LeftOut, listed
from sls.data.raw import PARTS, PLAIN, RawDataset, normal, part_of
from store.errors import DataError

SYSTEM = frozenset(
    name.casefold()
    for name in (
        "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__",
        "Thumbs.db", "ehthumbs.db", "desktop.ini",
    )
)  # fmt: skip
HIDDEN, NOT_AN_IMAGE, SPECIAL = "hidden or a system's own", "not an image", "neither a file nor a folder"
LOOP, BESIDE = "a link to a folder that it is in", "beside the class folders"


def read_folder(root: Path) -> RawDataset:
    """Read `root/CLASS/…` or `root/SPLIT/CLASS/…`; raise `DataError` where both are possible, or neither."""
    left_out = LeftOut()
    folders = _folders(root, left_out)
    parts = _parts(root, folders)
    if not parts:
        classes = _classes(root, folders)
        splits = {"train": _split(classes, tuple(classes), left_out)}
        return RawDataset(root.resolve().name, tuple(classes), splits, left_out.notes)
    train = _classes(parts["train"], _folders(parts["train"], left_out))
    splits = {}
    for part in (part for part in PARTS if part in parts):
        folder = parts[part]
        own = train if part == "train" else _classes_of_part(folder, train, left_out)
        splits[part] = _split(own, tuple(train), left_out)
    renamed = [f"{place(f.name)} is read as {part}" for part, f in parts.items() if f.name not in PLAIN]
    for folder in folders:
        if folder not in parts.values():
            left_out.add("a folder beside the splits", folder.name)
    return RawDataset(root.resolve().name, tuple(train), splits, (*renamed, *left_out.notes))


def _folders(root: Path, left_out: LeftOut) -> list[Path]:
    """Return the folders in `root`, in the order of their names; count everything else."""
    folders = []
    for path in _entries(root):
        if _is_hidden(path.name):
            left_out.add(HIDDEN, path)
        elif path.is_dir():
            folders.append(path)
        else:
            left_out.add(BESIDE, path)
    return folders


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{place(folder)} cannot be read ({error.strerror}): make it readable, or remove it") from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM


# ------------------------------------------------------------------------------------------------------------- splits


def _parts(root: Path, folders: Sequence[Path]) -> Mapping[str, Path]:
    """Return the folder of each split, none where the folders are classes; a class may be called `train`."""
    named = [(part, folder) for folder in folders if (part := part_of(folder.name))]
    deep = [(part, folder) for part, folder in named if any(path.is_dir() for path in _visible(folder))]
    if not deep:
        if len(named) == len(folders) > 1:
            names = " and ".join(place(folder.name) for folder in folders)
            raise DataError(f"{place(root)}: {names} have no class folders: make one for each class in each of them")
        return {}
    others = [folder for folder in folders if folder not in [f for _, f in named] and any(_visible(folder))]
    parts: dict[str, Path] = {}
    for part, folder in named:
        if part in parts:
            both = f"{place(parts[part].name)} and {place(folder.name)}"
            raise DataError(f"{place(root)} has both {both}: remove one of the two")
        if (part, folder) not in deep:
            raise DataError(
                f"{place(folder)} has no class folder, so its images have no label: make one for each class, or move it"
            )
        parts[part] = folder
    if "train" not in parts or (others and len(parts) == 1):
        spelled = ", ".join(place(folder.name) for folder in parts.values())
        beside = f", and {place(others[0].name)} like a class" if others else ", and there is no train"
        raise DataError(f"{place(root)}: {spelled} reads like a split{beside}: rename one, or add the missing split")
    return parts


def _visible(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if not _is_hidden(path.name)]


# ------------------------------------------------------------------------------------------------------------ classes


def _classes(root: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the class folders by their names in NFC."""
    classes: dict[str, Path] = {}
    for folder in folders:
        name = normal(folder.name)
        if name in classes:
            raise DataError(f"{place(root)} has two folders {name!r} that differ in their Unicode form: merge them")
        classes[name] = folder
    if len(classes) < 2:
        inside = [f for folder in folders for f in _visible(folder) if f.is_dir()]
        hint = f"; its folders are in {place(folders[0])}: give that one" if len(inside) > 1 else ""
        raise DataError(
            f"{place(root)} has {len(classes)} class folder ({', '.join(classes)}): "
            f"give at least two, one for each class{hint}"
        )
    return dict(sorted(classes.items()))


def _classes_of_part(folder: Path, train: Mapping[str, Path], left_out: LeftOut) -> dict[str, Path]:
    classes: dict[str, Path] = {}
    for path in _folders(folder, left_out):
        name = normal(path.name)
        if name not in train:
            raise DataError(f"{place(folder)} has class {name!r}, which is not in train: remove it or add it to train")
        if name in classes:
            raise DataError(f"{place(folder)} has two folders {name!r} that differ in their Unicode form: merge them")
        classes[name] = path
    return classes


def _split(folders: Mapping[str, Path], classes: Sequence[str], left_out: LeftOut) -> Split:
    images: list[Path] = []
    labels: list[int] = []
    unsupported: list[Path] = []
    for label, name in enumerate(classes):
        if name in folders:
            found = list(_images(folders[name], left_out, unsupported))
            images += found
            labels += [label] * len(found)
    if unsupported:
        shown = listed([place(path) for path in unsupported[1 : 1 + SHOWN]], len(unsupported) - 1)
        more = f" ({len(unsupported) - 1:,} more: {shown})" if shown else ""
        raise DataError(
            f"{place(unsupported[0])} has an unsupported format: convert it to PNG, JPEG, WebP or BMP, or remove it"
            + more
        )
    return Split(tuple(images), np.array(labels, dtype=np.int64))


def _images(folder: Path, left_out: LeftOut, unsupported: list[Path], above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Walk down the folder, through links too, and yield what is to be decoded."""
    above = (*above, folder.resolve())
    for path in _entries(folder):
        if _is_hidden(path.name):
            left_out.add(HIDDEN, path)
        elif path.is_dir():
            if path.resolve() in above:
                left_out.add(LOOP, path)
            else:
                yield from _images(path, left_out, unsupported, above)
        elif not path.is_file() and not path.is_symlink():
            left_out.add(SPECIAL, path)
        else:
            head = _head(path)
            if is_unsupported(head, path.suffix):
                unsupported.append(path)
            elif is_image(head, path.suffix):
                yield path
            else:
                left_out.add(NOT_AN_IMAGE, path)


def _head(path: Path) -> bytes:
    """Return the first bytes, none of a link to nothing or to a device: decoding says what is wrong with it."""
    if not path.is_file():
        return b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(SNIFFED_NBYTES)
    except OSError as error:
        if path.suffix.lower() in SUFFIXES:
            return b""
        raise DataError(f"{place(path)} cannot be read ({error.strerror}): make it readable, or remove it") from None
