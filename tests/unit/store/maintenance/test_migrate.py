"""A store of the format before, and of one to come."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
import support
from support.catalogue_file import lose_catalogue, tables
from support.toy_backbone import publish

from store.errors import (
    IntegrityError,
    NewerFormatError,
    OlderFormatError,
)
from store.maintenance.garbage import collect_garbage
from store.maintenance.migrate import migrate
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.registry.store import Store

GOLDEN = Path(support.__file__).parents[1] / "golden" / "store-format-1.tar.gz"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


def test_a_store_of_format_1_is_to_be_migrated_first(old: Path) -> None:
    before = tables(old)
    with pytest.raises(OlderFormatError, match=r"has format 1, .* then migrate it with `migrate\(url\)`"):
        Store.open(old)
    assert tables(old) == before


def test_a_migrated_store_keeps_digests_aliases_history_and_time(old: Path) -> None:
    before = tables(old)
    assert migrate(old, actor="ann") == (1, 2)
    with Store.open(old) as store:
        assert verify(store) == []
        versions = {(version.task, version.number, version.digest) for version in store.versions()}
        assert versions == {row[:3] for row in before["versions"]}
        assert set(store.queries.all_aliases()) == set(before["aliases"])
        history = list(store.queries.history())
        assert [
            (e.number, e.at, e.action, e.subject, e.version, e.alias, e.digest, e.previous) for e in history[:-1]
        ] == (sorted(before["history"]))
        assert (history[-1].action, history[-1].actor) == ("migrate", "ann")
        moved = [event for event in history if (event.subject, event.alias) == ("flowers", "latest")]
        assert [store.resolve("flowers", at=event.at).number for event in moved][-1] == 1
        assert store.rollback("flowers").number == 2


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
        assert publish(store, folder).number == 3


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
        assert store.resolve("flowers:2").number == 2
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
