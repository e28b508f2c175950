"""A store that is open while its folder or its catalogue goes away, comes back, or is another one then."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.processes import snapshot
from support.servers import Postgres
from support.toy_backbone import publish, relabel

from store.errors import ClosedStoreError, ConflictError, IntegrityError, InvalidSettingError, StorageError
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.registry.read_only_store import ReadOnlyStore
from store.registry.store import Store


def take_away(store: Store, to: Path) -> None:
    to.mkdir()
    for file in store.root.glob("catalogue.sqlite*"):
        file.rename(to / file.name)


def test_a_rebuilt_catalogue_is_read_and_written_from_then_on(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder)
    take_away(store, tmp_path / "broken")
    rebuild(store.root)
    with Store.open(store.root) as other:
        publish(other, relabel(folder, "a", "b", "c"))
    assert [version.number for version in store.versions("flowers")] == [1, 2]
    store.set_alias("flowers", "prod", 1)
    with Store.open(store.root) as other:
        assert other.aliases("flowers") == {"latest": 2, "prod": 1}
        assert verify(other) == []


def test_a_reader_follows_it_too(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder)
    with ReadOnlyStore.open(store.root) as reader:
        assert reader.resolve("flowers").number == 1
        take_away(store, tmp_path / "broken")
        rebuild(store.root)
        publish(store, relabel(folder, "a", "b", "c"))
        assert reader.resolve("flowers").number == 2


def test_a_store_that_is_away_is_a_storage_error_for_reads_and_writes_and_gets_nothing_written(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    publish(store, folder)
    shutil.move(store.root, tmp_path / "away")
    for use in (
        lambda: store.resolve("flowers"),
        lambda: store.set_tag("flowers", "a", "b"),
        lambda: publish(store, folder),
        lambda: store.backend.put("blobs/x", b""),
        lambda: store.blobs.put(b"x"),
    ):
        with pytest.raises(StorageError, match="folder back"):
            use()
    assert not store.root.exists()
    store.root.mkdir()  # as an empty mount point
    for use in (lambda: store.set_tag("flowers", "a", "b"), lambda: store.blobs.put(b"x")):
        with pytest.raises(StorageError):
            use()
    assert snapshot(store.root) == {}
    store.root.rmdir()
    shutil.move(tmp_path / "away", store.root)
    store.set_tag("flowers", "a", "b")
    assert store.resolve("flowers").number == 1


def test_another_store_or_an_old_copy_in_its_place_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(store.root / "catalogue.sqlite")) as source,
        closing(sqlite3.connect(tmp_path / "old.sqlite")) as old,
    ):
        source.backup(old)
    publish(store, folder)
    with Store.open(tmp_path / "other", create=True):
        pass
    mine = tmp_path / "mine"
    take_away(store, mine)
    shutil.copy(tmp_path / "other" / "catalogue.sqlite", store.root)
    for use in (store.versions, lambda: store.set_tag("flowers", "a", "b")):
        with pytest.raises(ConflictError, match="is of store"):
            use()
    (store.root / "catalogue.sqlite").unlink()
    shutil.copy(tmp_path / "old.sqlite", store.root / "catalogue.sqlite")
    with pytest.raises(IntegrityError, match="old copy"):
        store.versions()
    take_away(store, tmp_path / "refused")
    for file in mine.iterdir():
        file.rename(store.root / file.name)
    assert store.resolve("flowers").number == 1


def test_a_closed_store_answers_nothing(store: Store, folder: Path) -> None:
    blob = publish(store, folder).manifest_blob
    store.close()
    store.close()
    for use in (
        lambda: store.resolve("flowers"),
        lambda: store.search(),
        lambda: store.read(blob),
        lambda: store.backbones(),
        lambda: store.set_tag("flowers", "a", "b"),
        lambda: store.with_actor("ann"),
        lambda: store.lease([], holder="x", ttl_s=1),
    ):
        with pytest.raises(ClosedStoreError, match="was closed: open it again"):
            use()


@pytest.mark.parametrize("kind", ["a folder", "another store's", "no database"])
def test_a_store_that_cannot_have_its_catalogue_is_not_begun(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "names.sqlite"
    if kind == "a folder":
        path.mkdir()
    elif kind == "no database":
        path.write_text("nothing that SQLite reads" * 100)
    else:
        Store.open(tmp_path / "other", create=True, catalogue=f"sqlite:///{path}").close()
    with pytest.raises((InvalidSettingError, ConflictError, IntegrityError)):
        Store.open(tmp_path / "store", create=True, catalogue=f"sqlite:///{path}")
    assert not (tmp_path / "store").exists()


def test_neither_is_one_whose_server_does_not_answer_or_has_another_store(
    tmp_path: Path, database: str, database_server: Postgres
) -> None:
    Store.open(tmp_path / "other", create=True, catalogue=database).close()
    away = database.replace(f":{database_server.port}/", ":1/")
    for url, error in ((database, ConflictError), (away, StorageError)):
        with pytest.raises(error):
            Store.open(tmp_path / "store", create=True, catalogue=url)
    assert not (tmp_path / "store").exists()


def test_the_only_version_of_a_task_goes_with_the_task(store: Store, folder: Path) -> None:
    publish(store, folder, aliases=("prod",))
    with pytest.raises(
        ConflictError, match=r"aliases latest, prod: it is the task's only version, .*`all_versions=True"
    ):
        store.remove("flowers:1")
    store.remove_alias("flowers", "prod")
    with pytest.raises(ConflictError, match="has alias latest: it is the task's only version"):
        store.remove("flowers:1")
    assert store.remove("flowers", all_versions=True).versions == ("flowers:1",)
