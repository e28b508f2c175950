from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import Toy, make_toy, tune

from store.store import Store


@pytest.fixture(scope="session")
def toy() -> Toy:
    return make_toy()


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune(tmp_path_factory.mktemp("tuned"), depth=2)


@pytest.fixture
def folder(tuned: Path, tmp_path: Path) -> Path:
    """A task of depth 2 made by stock PEFT, free to be changed."""
    return Path(shutil.copytree(tuned, tmp_path / "task"))


@pytest.fixture
def store(toy: Toy, tmp_path: Path) -> Iterator[Store]:
    """A store that holds the toy backbone with its weights."""
    with Store.open(tmp_path / "store", create=True) as opened:
        opened.add_backbone(toy.record, toy.weights)
        yield opened
