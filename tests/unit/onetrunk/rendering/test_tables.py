from __future__ import annotations

import csv
import io

import pytest

from onetrunk.rendering.tables import cell, to_csv, to_table

ROWS = [
    {"task": "roses", "version": 12, "nbytes": 29405, "tags": {"team": "garden", "ticket": "7"}, "removed_at": None},
    {"task": "tulips", "version": 3, "nbytes": 1_500_000, "tags": {}, "removed_at": None},
]


def test_a_table_puts_numbers_to_the_right_and_gives_bytes_a_unit():
    assert to_table(ROWS, width=160).splitlines() == [
        "task     version      size   tags                   removed at",
        "──────────────────────────────────────────────────────────────",
        "roses         12   29.4 kB   team=garden ticket=7   –",
        "tulips         3    1.5 MB   –                      –",
    ]


def test_a_table_of_no_rows_is_empty():
    assert to_table([], width=80) == ""


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_a_table_is_wrapped_to_the_screen_and_loses_no_word(width):
    problem = "the file is damaged: " + "restore it from a copy " * 6
    rows = [{"what": "adapter weights of flowers:3", "problem": problem}]
    shown = to_table(rows, width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert sorted(shown.split()) == sorted(f"what problem {'─' * width} {rows[0]['what']} {problem}".split())


def test_columns_stay_in_line_beside_letters_of_other_widths():
    first, second = to_table(
        [{"label": "日本語", "n": 1}, {"label": "e\u0301te\u0301", "n": 2}], width=80
    ).splitlines()[2:]
    assert (first, second) == ("日本語   1", "e\u0301te\u0301      2")


def test_text_that_would_steer_a_terminal_is_shown_and_not_obeyed():
    shown = to_table([{"data": "a\x1b[2Jb\nc\x07 [red]"}], width=80)
    assert shown.splitlines()[-1] == "a\ufffd[2Jb\ufffdc\ufffd [red]"


def test_csv_leaves_nothing_empty_and_joins_what_holds_several():
    lines = list(csv.DictReader(io.StringIO(to_csv(ROWS))))
    assert [line["tags"] for line in lines] == ["team=garden ticket=7", ""]
    assert [line["removed_at"] for line in lines] == ["", ""]


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), ([], "–"), (0, "0"), (0.12345, "0.123"), (12345.6, "12,346")]
)
def test_a_cell_shows_a_value_as_people_read_it(value, shown):
    assert cell("value", value) == shown
