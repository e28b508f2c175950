"""One word, one meaning: the words that docs/glossary.md retires are in no message and in no docstring."""

from __future__ import annotations

import re

import pytest
from support.source_strings import ROOT, source_strings

PACKAGES = ("onetrunk", "serving", "sls", "store")
ROW = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
ALLOWED = {
    "condemned": {
        "store/catalogue/schema.py": "the name of a table on disk",
        "store/queries/reader.py": "SQL that reads this table",
        "store/maintenance/garbage.py": "a key of the report's JSON",
    },
    "leftovers": {"store/maintenance/garbage.py": "a key of the report's JSON"},
}
"""Word -> file -> why its strings may have the word: names on disk and keys of JSON stay as they are."""


def retired_words() -> list[str]:
    page = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    _, section = page.split("\n## Retired words\n")
    return ROW.findall(section.split("\n## ")[0])


def pattern(word: str) -> re.Pattern[str]:
    """Match the whole words, as written; "there is no such file" is plain English."""
    return re.compile(rf"(?<!there )\b{re.escape(word)}\b")


def test_the_table_of_retired_words_is_read():
    assert {"condemn", "is no", "lets go"} <= set(retired_words())


@pytest.mark.parametrize("word", retired_words())
def test_a_retired_word_is_in_no_message_and_no_docstring(word):
    retired, allowed = pattern(word), ALLOWED.get(word, {})
    strings = [string for string in source_strings(*PACKAGES) if retired.search(" ".join(string.text.split()))]
    assert [str(string) for string in strings if string.path not in allowed] == []
    assert {string.path for string in strings} >= allowed.keys()  # an exception that nothing needs is taken out
