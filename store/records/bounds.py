"""The largest values that a caller may send to the catalogue: what SQLite and PostgreSQL both take, with room."""

from __future__ import annotations

from collections.abc import Collection

from store.errors import InvalidSettingError

MAX_TEXT = 300  # characters of a text: the width of the catalogue's columns
MAX_LIST = 64  # tags of a search, aliases or scopes of a call
MAX_PAGE = 1000  # rows of a page
MAX_NUMBER = 2**31 - 1  # of a version or an event
MAX_LEASE_S = 86_400.0


def check_text(kind: str, text: str | None) -> None:
    """Raise unless the text is None, or short, printable and valid Unicode."""
    if text is None:
        return
    if not isinstance(text, str) or len(text) > MAX_TEXT or not text.isprintable():
        shown = f"of {len(text):,} characters" if isinstance(text, str) and len(text) > MAX_TEXT else f"{text!r:.80}"
        raise InvalidSettingError(f"{kind} {shown} is not valid: use at most {MAX_TEXT} printable characters")


def check_list(kind: str, values: Collection[object]) -> None:
    if len(values) > MAX_LIST:
        raise InvalidSettingError(f"{len(values):,} {kind} are too many: give at most {MAX_LIST} at once")


def check_number(kind: str, number: int, *, least: int = 0, most: int = MAX_NUMBER) -> None:
    if type(number) is not int or not least <= number <= most:
        raise InvalidSettingError(
            f"{kind} {number!r:.40} is not a whole number from {least} to {most:,}: give one that is"
        )


def check_version(version: int | None) -> None:
    """Raise unless it is None or may be the number of a version: what JSON and SQLite make of True would differ."""
    if version is not None:
        check_number("version", version, least=1)


def check_seconds(kind: str, seconds: float, *, most: float) -> None:
    """Raise unless it is a time above 0 and at most `most`; NaN is not."""
    if not isinstance(seconds, int | float) or not 0 < seconds <= most:
        raise InvalidSettingError(f"{kind} {seconds!r:.40} is not valid: use seconds above 0, at most {most:,.0f}")
