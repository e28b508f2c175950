"""One self-contained HTML page of tables and pictures: nothing is fetched when it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment

from onetrunk.rendering.section import Section
from onetrunk.rendering.tables import cell, heading


def to_html(title: str, lead: str, sections: Sequence[Section], *, css: str = "") -> str:
    """Return the page; `css` are the rules of its pictures."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(heading=heading, cell=lambda value, key: cell(key, value))
    source = (resources.files("onetrunk.rendering") / "assets" / "page.html").read_text("utf-8")
    return environment.from_string(source).render(title=title, lead=lead, sections=sections, css=css)
