"""One self-contained HTML page of tables and pictures: nothing is fetched when it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment

from onetrunk.rendering.tables import Record, cell, heading


@dataclass(frozen=True)
class Section:
    """A titled part of the page; `svg` is markup of our own making and goes in as it is, all else is escaped."""

    title: str
    text: str = ""
    rows: Sequence[Record] = ()
    svg: str = ""


def to_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(heading=heading, cell=lambda value, key: cell(key, value))
    source = (resources.files("onetrunk.rendering") / "assets" / "page.html").read_text("utf-8")
    return environment.from_string(source).render(title=title, lead=lead, sections=sections)
