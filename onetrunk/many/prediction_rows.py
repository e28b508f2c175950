"""The rows of many predictions, one for each image, and the files that have them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from serving.prediction import Prediction
from store.errors import InvalidSettingError

Row = dict[str, Any]
Writer = Callable[[Path, Sequence[str], Iterator[Row], Mapping[str, str]], None]
"""Writes the columns of these names; the facts go into a Parquet file's metadata."""
GROUP = 4096  # rows that are in memory at a time


def columns(refs: Sequence[str], *, top: int, logits: bool) -> list[str]:
    """Return the names of the columns: the image, its error, and for each ref what was asked for."""
    kinds = ["", ".score", ".version", *([".top"] if top > 1 else []), *([".logits"] if logits else [])]
    return ["image", "error", *(f"{ref}{kind}" for ref in refs for kind in kinds)]


def failed_row(refs: Sequence[str], image: str, error: str, *, top: int, logits: bool) -> Row:
    row: Row = dict.fromkeys(columns(refs, top=top, logits=logits))
    return row | {"image": image, "error": " ".join(error.split())}


def predicted_row(refs: Sequence[str], image: str, answers: Sequence[Prediction], *, top: int, logits: bool) -> Row:
    row: Row = {"image": image, "error": None}
    for ref, answer in zip(refs, answers, strict=True):
        best = answer.top(top)
        row |= {ref: best[0].label, f"{ref}.score": best[0].score, f"{ref}.version": answer.version}
        row |= {f"{ref}.top": [one._asdict() for one in best]} if top > 1 else {}
        row |= {f"{ref}.logits": list(answer.logits)} if logits else {}
    return row


def read_rows(parts: Iterable[Path]) -> Iterator[Row]:
    """Yield the rows of parts, which are JSON Lines, in their order."""
    for part in parts:
        with part.open("rb") as file:
            for line in file:
                yield json.loads(line)


def writer_of(path: Path) -> Writer:
    """Return what writes the format that the suffix names; raise where none does, or where its library is missing."""
    if path.suffix.lower() not in WRITERS:
        raise InvalidSettingError(f"{path} is not {', '.join(WRITERS)}: give a file with one of these suffixes")
    if path.suffix.lower() == ".parquet":
        _pyarrow()
    return WRITERS[path.suffix.lower()]


def _write_jsonl(path: Path, _names: Sequence[str], rows: Iterator[Row], _facts: Mapping[str, str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(f"{json.dumps(row, ensure_ascii=False)}\n")


def _write_csv(path: Path, names: Sequence[str], rows: Iterator[Row], _facts: Mapping[str, str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            cells = [row[name] for name in names]
            writer.writerow([json.dumps(cell) if isinstance(cell, list) else cell for cell in cells])


def _write_parquet(path: Path, names: Sequence[str], rows: Iterator[Row], facts: Mapping[str, str]) -> None:
    pa, parquet = _pyarrow()
    top = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))
    kinds = {".score": pa.float32(), ".version": pa.int64(), ".top": top, ".logits": pa.list_(pa.float32())}

    def kind_of(name: str) -> Any:
        return next((kind for suffix, kind in kinds.items() if name.endswith(suffix)), pa.string())

    fields = [(name, pa.string() if name in ("image", "error") else kind_of(name)) for name in names]
    schema = pa.schema(fields, metadata=dict(facts))
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise InvalidSettingError(f"Parquet needs {error.name}: pip install 'onetrunk[data]', or write CSV") from None
    return pyarrow, parquet


WRITERS: Mapping[str, Writer] = MappingProxyType(
    {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}
)
"""Suffix -> the writer of such a file."""
