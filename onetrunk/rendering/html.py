"""One self-contained HTML page of tables and pictures: nothing is fetched when it is opened."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment

from onetrunk.rendering.tables import Record, cell, heading, to_csv


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


def to_html(title: str, lead: str, sections: Sequence[Section], *, css: str = "") -> str:
    """Return the page; `css` are the rules of its pictures."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(heading=heading, cell=lambda value, key: cell(key, value))
    source = (resources.files("onetrunk.rendering") / "assets" / "page.html").read_text("utf-8")
    return environment.from_string(source).render(title=title, lead=lead, sections=sections, css=css)
