"""A part of a page or of a report in a terminal; a command that prints tables needs no templates for it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from onetrunk.rendering.tables import Record, to_csv


@dataclass(frozen=True)
class Section:
    """A titled part of the page; `svg` is markup of our own making and goes in as it is, all else is escaped.

    `data` is what the picture was drawn from: the page offers it as the file NAME.csv, which it holds itself.
    """

    title: str
    text: str = ""
    rows: Sequence[Record] = ()
    svg: str = ""
    data: Sequence[Record] = ()
    name: str = "data"

    @property
    def data_url(self) -> str:
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(f"{to_csv(self.data)}\n".encode()).decode()
