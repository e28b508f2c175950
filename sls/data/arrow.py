"""Read Parquet files, and what Hugging Face's `save_to_disk` writes, with pyarrow alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from sls.data.image_source import EncodedImage, EncodedSource, place, read_encoded
from sls.data.left_out import LeftOut
from sls.data.raw import RawDataset, part_of
from sls.data.rows import IMAGE_NAMES, LABEL_NAMES, PART_NAMES, Row, check_label_columns, column, raw_from_rows
from store.errors import DataError

MAX_NBYTES = 4 << 30  # of encoded images, which are kept in memory
BATCH = 256
IMAGES = (*IMAGE_NAMES, "jpg", "jpeg", "png", "webp", "image_bytes")
UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Columns:
    """Which columns hold the image, the label and the split, and the class names of the label."""

    image: str
    label: str
    part: str | None
    classes: tuple[str, ...] | None


def read_parquet(name: str, paths: Sequence[Path]) -> RawDataset:
    """Read each file; its name says its split where there are several, such as `train-00000-of-00002.parquet`."""
    parts = [part_of(re.split(r"[-_.\d]", path.name)[0]) if len(paths) > 1 else None for path in paths]
    return _read(name, [(path, part) for path, part in zip(paths, parts, strict=True)])


def read_saved(root: Path) -> RawDataset:
    """Read a folder of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    splits: dict[Path, str | None] = {root: None}
    if (root / "dataset_dict.json").is_file():
        splits = {root / split: str(split) for split in _json(root / "dataset_dict.json", "splits")}
    files = []
    for folder, part in splits.items():
        for entry in _json(folder / "state.json", "_data_files"):
            files.append((folder / Path(str(entry["filename"])).name, part))
    return _read(root.resolve().name, files)


def _json(path: Path, key: str) -> list[Any]:
    try:
        value = json.loads(path.read_bytes())[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        value = None
    if not isinstance(value, list) or not value:
        raise DataError(f"{place(path)} has no list {key!r}: save the dataset again with save_to_disk")
    return value


def _read(name: str, files: Sequence[tuple[Path, str | None]]) -> RawDataset:
    rows: list[Row] = []
    classes: set[tuple[str, ...] | None] = set()
    nbytes = 0
    for path, part in files:
        try:
            schema, batches = _batches(path)
            columns = _columns(path, schema)
            for row in _rows(path, part, columns, batches):
                nbytes += len(row.image.data) if isinstance(row.image, EncodedImage) else 0
                if nbytes > MAX_NBYTES:
                    raise DataError(
                        f"{name} has more than {MAX_NBYTES:,} bytes of images: save it as a folder or a tar"
                    )
                rows.append(row)
        except UNREADABLE as error:
            if isinstance(error, DataError):
                raise
            line = " ".join(str(error).split())[:200]
            raise DataError(f"{place(path)} cannot be read ({line}): write it again") from None
        classes.add(columns.classes)
    if len(classes) > 1:
        raise DataError(f"{name}: its files name different classes: write them with the same features")
    return raw_from_rows(name, place(files[0][0].parent), rows, LeftOut(), classes=classes.pop())


def _batches(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if path.suffix == ".arrow":
        reader = pa.ipc.open_stream(pa.memory_map(str(path)))
        return reader.schema, iter(reader)
    file = parquet.ParquetFile(path)
    return file.schema_arrow, file.iter_batches(BATCH)


def _columns(path: Path, schema: pa.Schema) -> Columns:
    features = _features(schema)
    where, names = place(path), list(schema.names)
    images = [name for name in names if features.get(name, {}).get("_type") == "Image"]
    labels = [name for name in names if features.get(name, {}).get("_type") == "ClassLabel"]
    for kind, found in (("image", images), ("label", labels)):
        if len(found) > 1:
            raise DataError(f"{where} has columns {' and '.join(found)}, each a {kind}: keep one")
    image = images[0] if images else column("image", names, IMAGES, where)
    label = labels[0] if labels else column("label", names, LABEL_NAMES, where)
    if label is None:
        flags = [field.name for field in schema if pa.types.is_boolean(field.type) or pa.types.is_int8(field.type)]
        check_label_columns(where, dict.fromkeys(flags, "1"))
    if image is None or label is None:
        kind = "image" if image is None else "label"
        raise DataError(f"{where} has columns {', '.join(names[:8])}, none for the {kind}: name one of them {kind}")
    classes = features.get(label, {}).get("names") if labels else None
    return Columns(
        image, label, column("split", names, PART_NAMES, where), tuple(map(str, classes)) if classes else None
    )


def _features(schema: pa.Schema) -> Mapping[str, Mapping[str, Any]]:
    """Return what Hugging Face's libraries say of the columns, {} where they did not write the file."""
    value = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = value.get("info", {}).get("features", {})
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _rows(path: Path, part: str | None, columns: Columns, batches: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        images, labels = batch.column(columns.image).to_pylist(), batch.column(columns.label).to_pylist()
        parts = batch.column(columns.part).to_pylist() if columns.part else [part] * len(images)
        for image, label, own in zip(images, labels, parts, strict=True):
            where = f"{place(path)} row {number}"
            yield Row(_image(path, image, where), label, None if own is None else str(own), where)
            number += 1


def _image(path: Path, value: object, where: str) -> EncodedSource:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return EncodedImage(where, value)
    if isinstance(value, str) and "\0" not in value and (path.parent / value).is_file():
        return path.parent / value
    raise DataError(f"{where}: {value!r:.80} is not an image: give its encoded bytes, or the path of a file")


def row_groups(path: Path) -> list[int]:
    """Return how many rows each group of a Parquet file has; raise `DataError` where no column holds images."""
    try:
        file = parquet.ParquetFile(path)
        _image_column(path, file.schema_arrow)
        return [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        line = " ".join(str(error).split())[:200]
        raise DataError(f"{place(path)} cannot be read ({line}): write it again") from None


def read_rows(path: Path, group: int, start: int, count: int) -> Iterator[tuple[str, bytes | DataError]]:
    """Yield so many rows of a group: each image's name with its encoded bytes, or with its error."""
    file = parquet.ParquetFile(path)
    column = _image_column(path, file.schema_arrow)
    first = sum(file.metadata.row_group(before).num_rows for before in range(group))
    number = 0
    for batch in file.iter_batches(BATCH, row_groups=[group], columns=[column]):
        if number + len(batch) > start:
            for index, value in enumerate(batch.column(0).to_pylist(), number):
                if start <= index < start + count:
                    name = f"{path.name} row {first + index}"
                    try:
                        yield name, read_encoded(_image(path, value, name))
                    except DataError as error:
                        yield name, error
        number += len(batch)
        if number >= start + count:
            return


def _image_column(path: Path, schema: pa.Schema) -> str:
    features, names = _features(schema), list(schema.names)
    images = [name for name in names if features.get(name, {}).get("_type") == "Image"]
    found = images[0] if images else column("image", names, IMAGES, place(path))
    if found is None:
        shown = ", ".join(names[:8])
        raise DataError(f"{place(path)} has columns {shown}, none for the image: name one of them image")
    return found
