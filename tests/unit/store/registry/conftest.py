"""What the tests of the registry share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.toy_backbone import Toy, publish, relabel

from store.records.evidence import Accuracy, Certificate, PruneIndex
from store.records.manifest import Card
from store.registry.store import Store, Version


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def anywhere(request: pytest.FixtureRequest, toy: Toy, tmp_path: Path) -> Iterator[Store]:
    """A store that holds the toy backbone, on each kind of catalogue."""
    url = request.getfixturevalue("database") if request.param == "PostgreSQL" else None
    with Store.open(tmp_path / "anywhere", create=True, catalogue=url, actor="ann@host") as store:
        store.add_backbone(toy.record, toy.weights)
        yield store


@pytest.fixture
def release(store: Store, folder: Path, toy: Toy) -> Callable[..., Version]:
    """Publish one more version of `flowers`, of which so many of 100 are right at full depth and when cut."""
    count = itertools.count()

    def publish_one(*, full: int | None = None, cut: int | None = None, **options: object) -> Version:
        relabel(folder, "rose", "tulip", f"poppy {next(count)}")
        if cut is not None:
            certificate = Certificate(None if full is None else Accuracy(full, 100), Accuracy(cut, 100))
            card = Card(toy.record.id.fingerprint, PruneIndex(2, 4, "given"), certificate)
            (folder / "onetrunk.json").write_bytes(card.to_json())
        return publish(store, folder, **options)

    return publish_one
