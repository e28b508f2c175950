"""A lost, old or tampered catalogue, and a store of the format before."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
import support
from support.toy_backbone import Toy, publish, relabel

from store.backends.layout import journal_key
from store.errors import (
    ConflictError,
    IntegrityError,
    NewerFormatError,
    OlderFormatError,
    OneTrunkError,
    StoreNotFoundError,
)
from store.maintenance.garbage import collect_garbage
from store.maintenance.migrate import migrate
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.records.blob import Blob
from store.records.events import AliasRule
from store.records.evidence import Lineage, PruneIndex
from store.records.manifest import Card
from store.registry.api_keys import new_key
from store.registry.store import Store

GOLDEN = Path(support.__file__).parents[1] / "golden" / "store-format-1.tar.gz"
ENDS_BY_ITSELF = {"leases", "holds", "condemned"}


@pytest.fixture
def used(store: Store, folder: Path) -> Store:
    """A store in which everything has happened that a history tells of."""
    publish(store, folder, aliases=("prod",))
    for name in ("b", "c", "d"):
        publish(store, relabel(folder, "a", name, "z"))
    publish(store, folder, "acme/cars")
    store.set_rule(AliasRule("acme/*", "prod", protected=True, max_drop=1.5))
    store.set_rule(AliasRule("*", "canary", min_accuracy=0.5))
    store.set_rule(AliasRule("*", "canary"))
    store.set_tag("flowers", "owner", "ann")
    store.set_tag("flowers", "stage", "test", version=2)
    store.set_tag("flowers", "stage", None, version=2)
    store.rollback("flowers")
    store.remove("flowers:2")
    collect_garbage(store, grace_s=0)
    store.remove("flowers:4")
    store.remove("acme/cars", all_versions=True)
    for revoke in (True, False):
        key = store.put_key(new_key("acme", ("read", "publish"))[0])
        if revoke:
            store.revoke_key(key.id)
    return store


def tables(root: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(root / "catalogue.sqlite")) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {name: sorted(connection.execute(f"select * from {name}"), key=str) for name in names}


def lose_catalogue(root: Path) -> None:
    for path in root.glob("catalogue.sqlite*"):
        path.unlink()


def test_a_rebuilt_catalogue_is_the_lost_one_row_by_row(used: Store) -> None:
    used.close()
    before = tables(used.root)
    lose_catalogue(used.root)
    with pytest.raises(
        IntegrityError, match="is missing: restore it from a copy of the store, or run `onetrunk rebuild`"
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
        assert other.rollback("flowers").version == 1
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
    with pytest.raises(IntegrityError, match="it is an old copy; move it away and run `onetrunk rebuild`"):
        Store.open(used.root)
    lose_catalogue(used.root)
    rebuild(used.root)
    with Store.open(used.root) as again:
        assert again.resolve("flowers") == published


def test_an_empty_catalogue_beside_a_used_store_is_not_begun(used: Store, database: str) -> None:
    history = list(used.queries.history())
    with pytest.raises(IntegrityError, match=r"is empty, and .* has a history: name its own catalogue"):
        Store.open(used.root, create=True, catalogue=database)
    with pytest.raises(IntegrityError, match="restore it from a copy"):
        Store.open(used.root, catalogue=database)
    used.close()
    lose_catalogue(used.root)
    (used.root / "catalogue.sqlite").touch()
    with pytest.raises(IntegrityError, match="run `onetrunk rebuild`"):
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
        with pytest.raises(IntegrityError, match=r"has another event .* than the catalogue, of which there are two"):
            publish(other, relabel(folder, "other", "b", "c"))
        assert {path.name: path.read_bytes() for path in (used.root / "journal").iterdir()} == kept
        assert verify(one) == []


def test_a_hole_in_the_journal_is_told_once_and_mended(used: Store) -> None:
    path = used.root / journal_key(3)
    kept = path.read_bytes()
    path.unlink()
    (finding,) = verify(used, metadata_only=True)
    assert (finding.path, finding.used_by) == (str(path), ("flowers",))
    assert "journal of event 3 is missing: run `onetrunk verify` again" in finding.problem
    assert verify(used, metadata_only=True) == []
    assert path.read_bytes() == kept


def test_a_changed_journal_is_told_until_it_is_removed(used: Store) -> None:
    path = used.root / journal_key(3)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"publish", b"Publish"))
    for _ in range(2):
        (finding,) = verify(used, metadata_only=True)
        assert "journal of event 3 is not what the history says" in finding.problem
    path.unlink()
    verify(used, metadata_only=True)
    assert verify(used, metadata_only=True) == []


def test_a_catalogue_that_forgets_the_weights_of_a_backbone_is_found_and_frees_nothing(used: Store, toy: Toy) -> None:
    with closing(sqlite3.connect(used.root / "catalogue.sqlite")) as connection:
        connection.execute("update backbones set weights = null, weights_nbytes = null")
        connection.commit()
    assert [finding.used_by for finding in verify(used, metadata_only=True)] == [("backbone toy/vit",)]
    with pytest.raises(IntegrityError, match="does not know the weights of backbone toy/vit"):
        collect_garbage(used, grace_s=0)
    assert used.blobs.holds(Blob.of(toy.weights))


def test_verify_finds_nothing_while_others_publish_remove_and_collect(store: Store, folder: Path) -> None:
    stop, failed = threading.Event(), list[BaseException]()

    def work() -> None:
        try:
            with Store.open(store.root, actor="another") as other:
                for number in range(1, 1000):
                    publish(other, relabel(folder, "a", f"b {number}", "c"))
                    if number > 1:
                        other.remove(f"flowers:{number - 1}")
                        collect_garbage(other, grace_s=0)
                    if stop.is_set():
                        return
        except OneTrunkError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        found = [finding for _ in range(12) for finding in verify(store)]
    finally:
        stop.set()
        thread.join()
    assert (found, failed) == ([], [])


# The format before


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


def test_a_store_of_format_1_is_to_be_migrated_first(old: Path) -> None:
    before = tables(old)
    with pytest.raises(OlderFormatError, match=r"has format 1, .* then run `onetrunk migrate` once"):
        Store.open(old)
    assert tables(old) == before


def test_a_migrated_store_keeps_digests_aliases_history_and_time(old: Path) -> None:
    before = tables(old)
    assert migrate(old, actor="ann") == (1, 2)
    with Store.open(old) as store:
        assert verify(store) == []
        versions = {(version.task, version.version, version.digest) for version in store.versions()}
        assert versions == {row[:3] for row in before["versions"]}
        assert set(store.queries.all_aliases()) == set(before["aliases"])
        history = list(store.queries.history())
        assert [
            (e.number, e.at, e.action, e.subject, e.version, e.alias, e.digest, e.previous) for e in history[:-1]
        ] == (sorted(before["history"]))
        assert (history[-1].action, history[-1].actor) == ("migrate", "ann")
        moved = [event for event in history if (event.subject, event.alias) == ("flowers", "latest")]
        assert [store.resolve("flowers", at=event.at).version for event in moved][-1] == 1
        assert store.rollback("flowers").version == 2


def test_a_migrated_store_is_rebuilt_collected_and_published_to_as_any_other(old: Path, folder: Path) -> None:
    migrate(old)
    with Store.open(old) as store:
        assert collect_garbage(store, grace_s=0).freed == ()
        store.remove("flowers:2") if "prod" not in store.aliases("flowers") else store.remove_alias("flowers", "prod")
    before = tables(old)
    lose_catalogue(old)
    assert rebuild(old).problems == ()
    assert tables(old) == before
    with Store.open(old) as store:
        assert publish(store, folder).version == 3


def test_an_exported_version_of_format_1_is_published_again_as_what_it_was(old: Path, tmp_path: Path) -> None:
    migrate(old)
    with Store.open(old) as store:
        version = store.resolve("acme/cars")
        assert version.manifest.format == 1
        assert store.publish("acme/cars", store.export("acme/cars", tmp_path / "out")).digest == version.digest


def test_migrating_twice_changes_nothing_more(old: Path) -> None:
    migrate(old)
    before = tables(old)
    assert migrate(old) == (2, 2)
    assert tables(old) == before


@pytest.mark.parametrize("journal", [0, 3, 11])
def test_a_migration_that_died_is_ended_by_running_it_again(old: Path, journal: int) -> None:
    identity = (old / "store.json").read_bytes()
    migrate(old)
    before = tables(old)
    (old / "store.json").unlink()
    (old / "store.json").write_bytes(identity)
    for path in sorted((old / "journal").iterdir())[journal:]:
        path.unlink()
    with pytest.raises(OlderFormatError):
        Store.open(old)
    assert migrate(old) == (1, 2)
    assert tables(old) == before
    with Store.open(old) as store:
        assert verify(store) == []


@pytest.mark.parametrize(
    "change",
    [
        "update aliases set version = 2 where task = 'flowers' and alias = 'latest'",
        "delete from versions where task = 'acme/cars'",
        "update history set alias = 'beta' where number = 7",
    ],
)
def test_a_store_that_was_tampered_with_is_not_migrated(old: Path, change: str) -> None:
    with closing(sqlite3.connect(old / "catalogue.sqlite")) as connection:
        connection.execute(change)
        connection.commit()
    before = tables(old)
    with pytest.raises(IntegrityError, match="restore the catalogue from a copy, then migrate"):
        migrate(old)
    assert tables(old) == before


def test_a_damaged_manifest_does_not_keep_a_store_in_the_old_format(old: Path) -> None:
    with closing(sqlite3.connect(old / "catalogue.sqlite")) as connection:
        (digest,) = connection.execute("select digest from versions where task = 'flowers' and version = 1").fetchone()
    (old / "blobs" / "sha256" / digest[:2] / digest).unlink()
    assert migrate(old) == (1, 2)
    with Store.open(old) as store:
        assert store.resolve("flowers:2").version == 2
        with pytest.raises(IntegrityError, match="is missing"):
            store.resolve("flowers:1")
        assert ("manifest of flowers:1",) in [finding.used_by for finding in verify(store)]


def test_a_newer_format_is_refused_in_words(used: Store) -> None:
    identity = used.root / "store.json"
    said = json.loads(identity.read_bytes())
    identity.unlink()
    identity.write_text(json.dumps({**said, "format": 3}))
    for attempt in (Store.open, migrate, rebuild):
        with pytest.raises(NewerFormatError, match="has format 3, this onetrunk reads up to 2: upgrade onetrunk"):
            attempt(used.root)


def test_a_newer_catalogue_is_refused_in_words(used: Store) -> None:
    used.close()
    with closing(sqlite3.connect(used.root / "catalogue.sqlite")) as connection:
        connection.execute("update meta set value = '3' where key = 'format'")
        connection.commit()
    with pytest.raises(NewerFormatError, match="has format 3, this onetrunk reads up to 2: upgrade onetrunk"):
        Store.open(used.root)


# Lineage


@pytest.mark.parametrize(
    "lineage",
    [
        Lineage(code_commit="4f2c1d9", parent=f"flowers@sha256:{'ab' * 32}"),
        Lineage("flowers", "ab" * 32, 100, 50, {"lr": 0.001}, {"peft": "0.21.2"}, "4f2c1d9-dirty", None),
    ],
)
def test_where_a_version_came_from_travels_with_it(
    store: Store, folder: Path, toy: Toy, tmp_path: Path, lineage: Lineage
) -> None:
    card = Card(toy.record.id.fingerprint, PruneIndex(2, 4, "given"), None, lineage)
    (folder / "onetrunk.json").write_bytes(card.to_json())
    version = store.publish("flowers", folder)
    assert version.manifest.lineage == lineage
    assert store.publish("flowers", store.export("flowers", tmp_path / "out")) == version
