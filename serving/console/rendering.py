"""Templates, and how values are written for people. Everything that goes into a page is escaped."""

from __future__ import annotations

import re
import urllib.parse
from datetime import UTC, datetime
from functools import cache
from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from serving.console.assets import versioned
from serving.console.state import Shown, Visit
from store.records.evidence import Accuracy

NAVIGATION = (
    ("/", "Backbone"),
    ("/tasks", "Tasks"),
    ("/storage", "Storage"),
    ("/servers", "Servers"),
    ("/try", "Try it"),
)


def render(visit: Visit, shown: Shown) -> str:
    """Return the page as HTML, for this visit."""
    template = environment().get_template(shown.template)
    return template.render(visit=visit, base=visit.base, navigation=NAVIGATION, **shown.values)


@cache
def environment() -> Environment:
    folder = resources.files("serving.console") / "templates"
    sources = {file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".html")}
    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=DictLoader(sources)
    )
    made.filters.update(
        size=size, percent=percent, interval=interval, points=points, count=count, when=when, words=words, url=quote,
        plural=plural,
    )  # fmt: skip
    made.globals.update(static=versioned)
    return made


def size(nbytes: float) -> str:
    """Return bytes with an SI unit: 1 kB is 1000 B."""
    scaled, units = float(nbytes), ["B", "kB", "MB", "GB", "TB"]
    while scaled >= 999.5 and len(units) > 1:
        scaled, units = scaled / 1000, units[1:]
    return f"{scaled:.3g}\N{NO-BREAK SPACE}{units[0]}"


def percent(share: float | Accuracy | None) -> str:
    value = share.value if isinstance(share, Accuracy) else share
    return "–" if value is None else f"{value:.1%}"


def interval(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return f"{low:.1%} to {high:.1%}"


def points(drop: float) -> str:
    """Return points of accuracy, with a sign."""
    rounded = round(drop, 2) + 0.0
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.2f} points"


def count(number: float) -> str:
    return f"{number:,.0f}" if isinstance(number, int) or abs(number) >= 1000 else f"{number:.3g}"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun if number == 1 else noun + ('es' if noun.endswith('s') else 's')}"


def when(moment: str | float) -> Markup:
    """Return a time in UTC, which a script rewrites in the reader's zone."""
    try:
        at = datetime.fromtimestamp(moment, UTC) if isinstance(moment, float | int) else datetime.fromisoformat(moment)
    except (ValueError, OverflowError, OSError):
        return Markup("{}").format(moment)
    at = at.astimezone(UTC)
    iso = at.isoformat(timespec="milliseconds")
    return Markup('<time datetime="{}" title="{} UTC">{:%Y-%m-%d %H:%M} UTC</time>').format(iso, iso[:19], at)


def words(action: str) -> str:
    return re.sub(r"[-_]+", " ", action)


def plain(message: str) -> str:
    """Return an error's message without a remedy that is a call in Python, which no reader of a page makes."""
    before, tick, _ = message.partition("`")
    end = max(before.rfind(mark) for mark in (": ", "; ", ", "))
    if not tick or end < 0:
        return message
    return before[:end] if before[end - 1] in ".?!" else f"{before[:end]}."


def quote(text: object) -> str:
    return urllib.parse.quote(str(text), safe="/")
