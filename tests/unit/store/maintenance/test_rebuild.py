"""A lost, old or empty catalogue, rebuilt from the journal and the manifests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.catalogue_file import lose_catalogue, tables
from support.toy_backbone import publish, relabel

from store.backends.layout import journal_key
from store.errors import (
    ConflictError,
    IntegrityError,
    StoreNotFoundError,
)
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.registry.store import Store

ENDS_BY_ITSELF = {"leases", "holds", "condemned"}


def test_a_rebuilt_catalogue_is_the_lost_one_row_by_row(used: Store) -> None:
    used.close()
    before = tables(used.root)
    lose_catalogue(used.root)
    with pytest.raises(
        IntegrityError, match=r"is missing: restore it from a copy of the store, or rebuild it with `rebuild\(url\)`"
    ):
        Store.open(used.root)
    rebuilt = rebuild(used.root)
    assert (rebuilt.events, rebuilt.versions, rebuilt.problems) == (len(before["history"]), 4, ())
    assert tables(used.root) == before | {name: [] for name in ENDS_BY_ITSELF}
    with Store.open(used.root) as again:
        assert verify(again) == []


def test_a_rebuild_on_postgresql_answers_the_same(used: Store, database: str) -> None:
    answered = (
        used.versions(removed=True),
        used.search(),
        used.rules(),
        used.history("flowers"),
        used.api_keys(),
    )
    rebuild(used.root, catalogue=database)
    with Store.open(used.root, catalogue=database) as other:
        assert verify(other) == []
        page, keys = other.search(), other.api_keys()
        assert (other.versions(removed=True), page, other.rules(), other.history("flowers"), keys) == answered
        assert other.rollback("flowers").number == 1
    with pytest.raises(ConflictError, match="exists: move it away first"):
        rebuild(used.root, catalogue=database)


def test_a_catalogue_that_is_there_is_not_built_over(used: Store) -> None:
    with pytest.raises(ConflictError, match="exists: move it away first"):
        rebuild(used.root)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x00", None], ids=["empty", "another object", "zero", "missing"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_journal_that_is_no_chain_builds_nothing(used: Store, damage: bytes | None, number: int) -> None:
    path = used.root / journal_key(number)
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    used.close()
    lose_catalogue(used.root)
    with pytest.raises(IntegrityError, match="from a copy"):
        rebuild(used.root)
    assert [path.name for path in used.root.iterdir() if "catalogue" in path.name] == ["catalogue.lock"]


def test_an_old_copy_of_the_catalogue_is_not_taken_for_the_catalogue(used: Store, folder: Path, tmp_path: Path) -> None:
    used.close()
    shutil.copy(used.root / "catalogue.sqlite", tmp_path / "old")
    with Store.open(used.root) as store:
        published = publish(store, relabel(folder, "new", "b", "c"))
    shutil.copy(tmp_path / "old", used.root / "catalogue.sqlite")
    with pytest.raises(IntegrityError, match=r"it is an old copy; move it away and rebuild it with `rebuild\(url\)`"):
        Store.open(used.root)
    lose_catalogue(used.root)
    rebuild(used.root)
    with Store.open(used.root) as again:
        assert again.resolve("flowers") == published


def test_an_empty_catalogue_beside_a_used_store_is_not_begun(used: Store, database: str) -> None:
    history = list(used.queries.history())
    with pytest.raises(IntegrityError, match=r"is empty, and .* has a history: name its own with `catalogue=`"):
        Store.open(used.root, create=True, catalogue=database)
    with pytest.raises(IntegrityError, match="restore it from a copy"):
        Store.open(used.root, catalogue=database)
    used.close()
    lose_catalogue(used.root)
    (used.root / "catalogue.sqlite").touch()
    with pytest.raises(IntegrityError, match=r"rebuild it with `rebuild\(url\)`"):
        Store.open(used.root, create=True)
    lose_catalogue(used.root)
    assert rebuild(used.root).events == len(history)


def test_a_database_without_tables_is_no_store(tmp_path: Path, database: str) -> None:
    with Store.open(tmp_path / "store", create=True):
        pass
    (tmp_path / "store" / journal_key(1)).unlink()
    with pytest.raises(StoreNotFoundError, match="has never been finished"):
        Store.open(tmp_path / "store", catalogue=database)


def test_two_catalogues_of_one_store_do_not_write_over_each_other(used: Store, folder: Path, tmp_path: Path) -> None:
    used.close()
    copy = tmp_path / "catalogue.sqlite"
    shutil.copy(used.root / "catalogue.sqlite", copy)
    with Store.open(used.root) as one, Store.open(used.root, catalogue=f"sqlite:///{copy}") as other:
        publish(one, relabel(folder, "one", "b", "c"))
        kept = {path.name: path.read_bytes() for path in (used.root / "journal").iterdir()}
        with pytest.raises(IntegrityError, match=r"has another event .* than the catalogue: there are two catalogues"):
            publish(other, relabel(folder, "other", "b", "c"))
        assert {path.name: path.read_bytes() for path in (used.root / "journal").iterdir()} == kept
        assert verify(one) == []
