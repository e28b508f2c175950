"""Read a table of paths and labels: CSV, TSV, JSON Lines, or a folder of images with such a `metadata` file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from sls.data.image_source import SUFFIXES, place
from sls.data.left_out import SHOWN, LeftOut, listed
from sls.data.raw import RawDataset, part_of
from sls.data.rows import IMAGE_NAMES, LABEL_NAMES, PART_NAMES, Row, check_label_columns, column, raw_from_rows
from store.errors import DataError

MAX_NBYTES = 1 << 30
DELIMITERS = ",;\t|"
METADATA = ("metadata.csv", "metadata.jsonl")
Cells = Mapping[str, object]


def read_table(path: Path) -> RawDataset:
    """Read the images that a file lists, by paths from its own folder; raise `DataError`."""
    return raw_from_rows(path.stem, place(path), _rows(path, None), LeftOut())


def metadata_of(root: Path) -> list[tuple[Path, str | None]]:
    """Return the metadata files that have labels, with the split of each; none where class folders say the labels."""
    found: list[tuple[Path, str | None]] = [(root / name, None) for name in METADATA if (root / name).is_file()]
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        found += [
            (folder / name, part) for name in METADATA if (folder / name).is_file() and (part := part_of(folder.name))
        ]
    return [(path, part) for path, part in found if _has_labels(path)]


def read_metadata(root: Path, files: list[tuple[Path, str | None]]) -> RawDataset:
    """Read a folder of images whose metadata files have their labels, as Hugging Face's image folders do."""
    rows = [row for path, part in files for row in _rows(path, part)]
    left_out, used = LeftOut(), {row.image for row in rows}
    for folder in {path.parent for path, _ in files}:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path not in used:
                left_out.add("not in the metadata", path)
    return raw_from_rows(root.resolve().name, place(root), rows, left_out)


def _has_labels(path: Path) -> bool:
    first = next(_cells(path), None)
    return first is not None and column("label", list(first[1]), LABEL_NAMES, place(path)) is not None


def _rows(path: Path, part: str | None) -> list[Row]:
    rows: list[Row] = []
    missing: list[str] = []
    columns: tuple[str, str, str | None] | None = None
    for number, cells in _cells(path):
        columns = columns or _columns(path, cells)
        image, label, split = columns
        where = f"{place(path)} line {number}"
        source, text = _image(path.parent, cells.get(image), where), cells.get(split) if split else None
        if not source.is_file():
            missing.append(f"{where}: no file {place(source)}" if not missing else place(source))
        rows.append(Row(source, cells.get(label), part if text is None else str(text), where))
    if missing:
        first, *others = missing
        more = f" ({len(others):,} more: {listed(others[:SHOWN], len(others))})" if others else ""
        raise DataError(f"{first}: correct the path, from the folder of the table{more}")
    if not rows:
        raise DataError(f"{place(path)} lists no image: give a line for each")
    return rows


def _columns(path: Path, cells: Cells) -> tuple[str, str, str | None]:
    where, names = place(path), list(cells)
    image, label = column("image", names, IMAGE_NAMES, where), column("label", names, LABEL_NAMES, where)
    if label is None:
        check_label_columns(where, cells)
    if image is None or label is None:
        kind, known = ("image", IMAGE_NAMES) if image is None else ("label", LABEL_NAMES)
        shown = listed([repr(name) for name in names[:8]], len(names))
        raise DataError(
            f"{where} has columns {shown}, none for the {kind}: name one of them in its first line {known[0]}"
        )
    return image, label, column("split", names, PART_NAMES, where)


def _image(folder: Path, cell: object, where: str) -> Path:
    if not isinstance(cell, str) or not cell.strip() or "\0" in cell:
        raise DataError(f"{where}: path {cell!r:.80} is not valid: give the image's path from the folder of the table")
    text = cell.strip()
    if "://" in text:
        raise DataError(f"{where}: {place(text)} is a URL: download the images, and give their paths")
    path = folder / text
    return path if path.exists() or "\\" not in text else folder / text.replace("\\", "/")


def _cells(path: Path) -> Iterator[tuple[int, Cells]]:
    """Yield each line's number and its cells by the names of their columns."""
    if path.stat().st_size > MAX_NBYTES:
        raise DataError(f"{place(path)} has more than {MAX_NBYTES:,} bytes: is it a table of paths?")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".jsonl", ".ndjson"):
                yield from _json_lines(path, file)
            else:
                yield from _csv_lines(path, file)
    except (UnicodeDecodeError, csv.Error, OSError, RecursionError) as error:
        raise DataError(f"{place(path)} cannot be read ({error}): save it as UTF-8, one image a line") from None


def _json_lines(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, Cells]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place(path)} line {number} is not JSON ({error}): give one object a line") from None
        if not isinstance(value, dict):
            raise DataError(f"{place(path)} line {number} is not an object: give one object a line")
        yield number, value


def _csv_lines(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, Cells]]:
    head = next(lines, "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=head.count)
    names = next(csv.reader([head], delimiter=delimiter, skipinitialspace=True), [])
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        number = reader.line_num + 1
        if not any(cells):
            continue
        if len(cells) != len(names):
            raise DataError(
                f"{place(path)} line {number} has {len(cells)} cells, its first line {len(names)}: correct it"
            )
        yield number, dict(zip(names, (cell.strip() for cell in cells), strict=True))
