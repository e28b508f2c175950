"""The command line that the benchmarks share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def bare_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows the module's docstring as it is written."""
    module = sys.modules["__main__"].__spec__
    return argparse.ArgumentParser(
        prog=None if module is None else f"python -m {module.name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def make_parser(description: str | None, *, out: str) -> argparse.ArgumentParser:
    """Return such a parser with `--out`, the JSON to write, by default in results/."""
    parser = bare_parser(description)
    parser.add_argument("--out", type=Path, default=RESULTS / out, help="the JSON to write (default: %(default)s)")
    return parser


def settings_of(options: argparse.Namespace, *others: str) -> dict[str, object]:
    """Return the options that decide what is measured: all but `--out` and those named."""
    return {name: value for name, value in vars(options).items() if name not in ("out", *others)}


def add_store_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--where", type=Path, help="folder for the stores; default: the system's for temporary files")
