"""Odd and broken sources: each is used, refused in one line before anything is tuned, or counted aloud."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.odd_files import ODD_FILES
from support.odd_sources import COUNTED, ODD_FOLDERS, REFUSED, USED, OddSource
from support.source_strings import ROOT

from sls.data.loading import load_dataset
from store.errors import DataError

PAGE = ROOT / "docs" / "data.md"
SOURCES = {source.name: source for source in (*ODD_FOLDERS, *ODD_FILES)}
DRAWN = re.compile(r"(test|validation) split: [\d,]+ images? drawn from train, a fifth of each class")
HEAD = "| source | what comes of it | what is said |\n|---|---|---|\n"


def outcome(source: OddSource, root: Path) -> tuple[str, str]:
    """Return what came of it, and what was said."""
    made = source.make(root)
    try:
        dataset = load_dataset(made if isinstance(made, Path | str) else root)
    except DataError as error:
        return REFUSED, str(error)
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == source.images
    notes = [note for note in dataset.notes if not DRAWN.fullmatch(note)]
    return (COUNTED if notes else USED), "; ".join(notes)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    found = {}
    for name, source in SOURCES.items():
        root = tmp_path_factory.mktemp("odd") / "DATA"
        root.mkdir()
        result, said = outcome(source, root)
        found[name] = result, said.replace(f"{root.parent}/", "")
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_an_odd_source_is_used_or_counted_or_refused_in_one_line(name, outcomes):
    found, said = outcomes[name]
    assert found == SOURCES[name].outcome, said
    assert re.search(SOURCES[name].says, said), said
    assert said.isprintable()


def test_the_page_tells_of_each_source_what_comes_of_it(outcomes):
    rows = [f"| {name} | {found} | {said.replace('|', chr(92) + '|')} |\n" for name, (found, said) in outcomes.items()]
    before, rest = PAGE.read_text("utf-8").split(HEAD)
    after = re.sub(r"^\|.*\n", "", rest, flags=re.MULTILINE)
    if os.environ.get("ONETRUNK_SNAPSHOTS") == "write":
        PAGE.write_text(before + HEAD + "".join(rows) + after, "utf-8")
    assert PAGE.read_text("utf-8").split(HEAD)[1] == "".join(rows) + after, (
        "renew the page with ONETRUNK_SNAPSHOTS=write if it should be so"
    )
