"""SVG as text: elements, one picture with its name and description, and the data behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from store.accounting.pictures.style import css

XMLNS = "http://www.w3.org/2000/svg"
CHARACTER = 6.6  # pixels that a character of the pictures' font takes on average


@dataclass(frozen=True)
class Picture:
    """A picture of a report: `svg` is an element for a page that has `style.css()`, `rows` the data behind it."""

    name: str
    title: str
    text: str
    svg: str
    rows: Sequence[Mapping[str, object]]

    def file(self) -> str:
        """Return the picture as a file of its own, style included."""
        head, _, rest = self.svg.partition(">")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{head} xmlns="{XMLNS}"><style>{css()}</style>{rest}\n'


def element(name: str, text: str = "", **attributes: object) -> str:
    """Return an element; `cls` is its class, `_` in other names becomes `-`, and None leaves an attribute out."""
    given = {"class" if key == "cls" else key.replace("_", "-"): value for key, value in attributes.items()}
    shown = "".join(f' {key}="{escape(_value(value))}"' for key, value in given.items() if value is not None)
    return f"<{name}{shown}>{text}</{name}>" if text else f"<{name}{shown}/>"


def label(x: float, y: float, text: str, cls: str | None = None, **attributes: object) -> str:
    return element("text", escape(text), x=x, y=y, cls=cls, **attributes)


def tooltip(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, cls=cls)


def canvas(name: str, title: str, text: str, parts: Sequence[str], *, width: float, height: float) -> str:
    """Return the whole drawing, which a screen reader names by its title and text."""
    heads = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(text)}</desc>'
    return element(
        "svg",
        heads + "".join(parts),
        cls="pic",
        role="img",
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        width=width,
        height=height,
        aria_labelledby=f"{name}-title {name}-text",
    )


def shorten(text: str, pixels: float) -> str:
    """Cut the text so that it fits about so many pixels; the tooltip should have it whole."""
    most = max(3, int(pixels / CHARACTER))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
