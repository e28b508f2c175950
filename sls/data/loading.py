"""Load a dataset from its source: an embedded one, a file, a folder, or a dataset that timm reads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from sls.data.dataset import Dataset, Split
from sls.data.embedded import EMBEDDED, render
from sls.data.folders import read_folder
from sls.data.image_source import place
from sls.data.named import is_known, read_named
from sls.data.npz import read_npz
from sls.data.raw import PARTS, RawDataset
from sls.data.scan import Scan
from sls.data.splits import complete
from sls.data.tables import metadata_of, read_metadata, read_table
from sls.data.tars import read_tars
from sls.progress import ProgressCallback, ignore_progress
from store.errors import DataError

PREFIX = "onetrunk/"
SIZES = {"train": 400, "validation": 100, "test": 400}
FILES: Mapping[str, Callable[[Path], RawDataset]] = MappingProxyType(
    {
        ".npz": read_npz,
        ".csv": read_table,
        ".tsv": read_table,
        ".jsonl": read_table,
        ".ndjson": read_table,
        ".tar": lambda path: read_tars(path.stem, [path]),
        ".parquet": lambda path: _from_arrow("read_parquet", path.stem, [path]),
    }
)
"""Suffix of a file -> who reads it."""
SAVED = ("dataset_dict.json", "state.json")  # by Hugging Face's save_to_disk
PACKED = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def load_dataset(
    source: str | Path,
    *,
    root: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    allow_duplicates: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Dataset:
    """Load a dataset: `onetrunk/NAME` (embedded), a folder, a file, or a name that timm reads (docs/data.md).

    A `Path` is a folder or a file, never a name. `root` is where timm keeps a named dataset; `limit` is the greatest
    number of images in each split. A missing validation or test split is drawn from the training split, class by
    class, by digest. Every image is decoded once, and `progress` hears of it where that takes more than a second.
    Images with equal pixels in two splits or under two labels are refused unless `allow_duplicates`. What is left
    out, and what else there is to know, is in `Dataset.notes`. Raises `DataError`.
    """
    name = str(source)
    if isinstance(source, str) and name.startswith(PREFIX):
        return _embedded(name.removeprefix(PREFIX), limit, seed)
    raw = read_raw(source, root)
    return complete(raw, Scan(progress), limit=limit, allow_duplicates=allow_duplicates)


def read_raw(source: str | Path, root: Path | None) -> RawDataset:
    """Read what the source holds; raise `DataError` where it cannot be read."""
    path, name = Path(source), str(source)
    if "\0" in name:
        raise DataError(f"no data at {name!r}: a path has no NUL")
    if path.is_dir():
        return _read_directory(path)
    if (read := FILES.get(path.suffix.lower())) is not None:
        if not path.is_file():
            raise DataError(f"no file {name!r}: give one that exists")
        return read(path)
    if path.exists():
        remedy = "unpack it first" if path.suffix.lower() in PACKED else f"give a folder, or {', '.join(FILES)}"
        raise DataError(f"{place(path)} is not a source of images: {remedy}")
    if isinstance(source, Path) or not is_known(name):
        raise DataError(f"no data at {name!r}: give a folder, a file, onetrunk/NAME, or timm's torch/cifar10")
    return read_named(name, root)


def _read_directory(root: Path) -> RawDataset:
    """Read a folder by what is in it: files of one kind, metadata with labels, or class folders."""
    if any((root / name).is_file() for name in SAVED):
        return _from_arrow("read_saved", root)
    for suffix in (".parquet", ".tar"):
        files = sorted(path for folder in (root, root / "data") for path in folder.glob(f"*{suffix}") if path.is_file())
        if files:
            name = root.resolve().name
            return _from_arrow("read_parquet", name, files) if suffix == ".parquet" else read_tars(name, files)
    metadata = metadata_of(root)
    return read_metadata(root, metadata) if metadata else read_folder(root)


def _from_arrow(function: str, *arguments: object) -> RawDataset:
    """Import what needs pyarrow only for a source that it reads."""
    try:
        raw: RawDataset = getattr(importlib.import_module("sls.data.arrow"), function)(*arguments)
        return raw
    except ModuleNotFoundError as error:
        raise DataError(f"Parquet and Arrow files need {error.name}: pip install 'onetrunk[data]'") from None


def _embedded(name: str, limit: int | None, seed: int) -> Dataset:
    train, validation, test = (
        Split(*render(name, part, min(SIZES[part], limit or SIZES[part]), seed=seed)) for part in PARTS
    )
    return Dataset(name, EMBEDDED[name].classes, train, validation, test, duplicates=0)
