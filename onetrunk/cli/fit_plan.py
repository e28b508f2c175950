"""A plan of many tasks: TOML or CSV with a row for each, or a folder of data sets; rows have options of `fit`."""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.fit_options import (
    AdapterOptions,
    DataOptions,
    ScheduleOptions,
    ScoreOptions,
    fit_config,
)
from onetrunk.cli.option_groups import with_groups
from onetrunk.cli.options import Aliases, Parent
from onetrunk.cli.recipe_options import RecipeOptions
from store.adapters.regular_file import read_regular
from store.errors import FormatError, InvalidSettingError, OnetrunkError
from store.records.backbone import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from onetrunk.many.fit_job import FitJob

MAX_NBYTES, MAX_ROWS = 16 << 20, 10_000
NAME, DATA, ROWS = "name", "data", "task"
TRUE, FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off", "")
SUFFIXES = (".npz", ".csv", ".tsv", ".jsonl", ".ndjson", ".tar", ".parquet")

Values = Mapping[str, object]


@dataclass(frozen=True)
class PlanRow:
    """A task of a plan as it is written: options by their names without dashes, and where it stands."""

    place: str
    name: str
    data: str
    options: Values


@dataclass(frozen=True)
class Plan:
    """The rows, and the options that all of them share."""

    rows: Sequence[PlanRow]
    shared: Values


def read_plan(path: Path) -> Plan:
    """Read the rows of a plan; raise `InvalidSettingError` where it is not one."""
    if path.is_dir():
        return Plan(_checked(path, list(_folder_rows(path))), {})
    if path.suffix.lower() not in (".toml", ".csv"):
        raise InvalidSettingError(f"{path} is not a plan: give a TOML or CSV file, or a folder of data sets")
    try:
        text = read_regular(path, limit=MAX_NBYTES).decode("utf-8-sig")
        if path.suffix.lower() == ".csv":
            return Plan(_checked(path, list(_csv_rows(path, text))), {})
        values = tomllib.loads(text)
    except FileNotFoundError:
        raise InvalidSettingError(f"no file {path}: give a TOML or CSV file, or a folder of data sets") from None
    except (FormatError, ValueError, RecursionError, csv.Error) as error:
        raise InvalidSettingError(f"{path} cannot be read ({error}): write it as TOML or CSV, in UTF-8") from None
    tables = values.pop(ROWS, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidSettingError(f"{path}: {ROWS} is not a list of tables: begin each task with [[{ROWS}]]")
    rows = [_row(path, f"row {number}", table) for number, table in enumerate(tables, 1)]
    return Plan(_checked(path, rows), values)


def _checked(path: Path, rows: list[PlanRow]) -> list[PlanRow]:
    if not rows:
        raise InvalidSettingError(f"{path} has no task: give a row with a {NAME} and its {DATA} for each")
    if len(rows) > MAX_ROWS:
        raise InvalidSettingError(f"{path} has {len(rows):,} tasks, at most {MAX_ROWS:,}: divide it")
    return rows


def _folder_rows(root: Path) -> Iterator[PlanRow]:
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix.lower() in SUFFIXES):
            continue
        yield PlanRow(path.name, path.name if path.is_dir() else path.stem, str(path), {})


def _csv_rows(path: Path, text: str) -> Iterator[PlanRow]:
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    names = [name.strip() for name in next(reader, [])]
    for cells in reader:
        if not any(cells):
            continue
        place = f"line {reader.line_num}"
        if len(cells) != len(names):
            raise InvalidSettingError(f"{path} {place} has {len(cells)} cells, its first line {len(names)}: correct it")
        filled = zip(names, (cell.strip() for cell in cells), strict=True)
        yield _row(path, place, {name: cell for name, cell in filled if cell})


def _row(path: Path, place: str, values: Values) -> PlanRow:
    name, data = values.get(NAME), values.get(DATA)
    for key, value in ((NAME, name), (DATA, data)):
        if not isinstance(value, str) or not value:
            raise InvalidSettingError(f"{path} {place} has no {key}: give each task a {NAME} and its {DATA}")
    assert isinstance(name, str)
    assert isinstance(data, str)
    beside = path.parent / data
    options = {key: value for key, value in values.items() if key not in (NAME, DATA)}
    return PlanRow(place, name, str(beside) if "\0" not in data and beside.exists() else data, options)


class RowParser:
    """Reads the options of rows as `fit` reads its own."""

    def __init__(self) -> None:
        self._jobs: list[FitJob] = []
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command()(with_groups(self._keep))
        self._command = typer.main.get_command(app)
        self.names = {name.removeprefix("--") for p in self._command.params for name in p.opts} - {"config", "place"}
        """The options that a row may have, and `task` and `data`."""
        self._flags = {name for p in self._command.params if getattr(p, "is_flag", False) for name in p.opts}

    def job(self, row: PlanRow, *layers: Values) -> FitJob:
        """Return the row as a job; later layers of options go before earlier ones. Raises `InvalidSettingError`."""
        merged: dict[str, object] = {}
        for layer in layers:
            merged |= {key.replace("_", "-"): value for key, value in layer.items()}
        words = [word for key, value in merged.items() for word in self._words(key, value)]
        self._jobs.clear()
        try:
            self._command.main([*words, "--place", row.place, "--", row.name, row.data], standalone_mode=False)
        except OnetrunkError:
            raise
        except Exception as error:  # of click, which typer brings in a form of its own
            if not hasattr(error, "format_message"):
                raise
            raise InvalidSettingError(" ".join(str(error.format_message()).split())) from None
        return self._jobs[0]

    def _words(self, key: str, value: object) -> Iterator[str]:
        option = f"--{key}"
        if option in self._flags:
            text = str(value).lower()
            if text not in (*TRUE, *FALSE):
                raise InvalidSettingError(f"{key} is {value!r:.80}: write true or false")
            if text in TRUE:
                yield option
            return
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, dict) or one != one:  # a number that is none
                raise InvalidSettingError(f"{key} is {one!r:.80}: give it a value, such as {key} = 1")
            yield f"{option}={one}"

    def _keep(
        self,
        task: str,
        data: str,
        *,
        backbone: Annotated[str, typer.Option()] = DEFAULT_BACKBONE,
        adapter: AdapterOptions,
        recipe: RecipeOptions,
        score: ScoreOptions,
        schedule: ScheduleOptions,
        images: DataOptions,
        parent: Parent = None,
        alias: Aliases = None,
        place: Annotated[str, typer.Option()] = "",
    ) -> None:
        from onetrunk.many.fit_job import FitJob

        self._jobs.append(
            FitJob(
                task,
                data,
                fit_config(adapter, recipe, score, schedule, seed=images.seed),
                backbone,
                tuple(alias or ()),
                parent,
                images.limit,
                images.seed,
                None if images.data_root is None else str(images.data_root),
                images.allow_duplicates,
                place=place,
            )
        )
