from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.processes import in_a_child, snapshot
from support.toy_backbone import publish

from store.errors import ReadOnlyStoreError
from store.maintenance.verify import verify
from store.registry.store import Store

NOBODY = 65534


@pytest.fixture
def read_only(store: Store, folder: Path) -> Iterator[Path]:
    """A store with one task whose folder its user may read alone."""
    publish(store, folder)
    # pytest's own folder is closed to others
    copy = Path(tempfile.gettempdir(), f"onetrunk-{os.urandom(8).hex()}")
    shutil.copytree(store.root, copy)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield copy
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(copy)


def test_a_read_only_store_answers_everything_and_writes_nothing(read_only: Path) -> None:
    before = snapshot(read_only)

    def read() -> None:
        with Store.open(read_only) as store:
            version = store.resolve("flowers@latest")
            assert store.read_only
            assert store.read(version.manifest.adapter.weights)
            assert verify(store) == []
            assert len(store.history("flowers")) == 2

    assert in_a_child(read, user=NOBODY) == 0
    assert snapshot(read_only) == before


def test_a_reader_without_write_access_sees_what_a_writer_at_work_has_committed(read_only: Path) -> None:
    read_only.chmod(0o755)
    (read_only / "catalogue.sqlite").chmod(0o644)
    with closing(sqlite3.connect(read_only / "catalogue.sqlite")) as writer:
        writer.execute("select * from versions").fetchall()  # keeps the write-ahead log from being folded in
        writer.execute("insert into aliases values ('flowers', 'prod', 1)")
        writer.commit()
        read_only.chmod(0o555)

        def read() -> None:
            with Store.open(read_only) as store:
                assert store.read_only
                assert store.aliases("flowers") == {"latest": 1, "prod": 1}

        assert in_a_child(read, user=NOBODY) == 0


def test_every_change_to_a_read_only_store_is_refused(read_only: Path, folder: Path) -> None:
    before = snapshot(read_only)

    def write() -> None:
        store = Store.open(read_only, create=True)
        record = store.backbones()[0]
        for change in (
            lambda: publish(store, folder),
            lambda: store.set_alias("flowers", "prod", 1),
            lambda: store.add_backbone(record, None),
        ):
            with pytest.raises(ReadOnlyStoreError, match="make it writable"):
                change()

    assert in_a_child(write, user=NOBODY) == 0
    assert snapshot(read_only) == before


def test_a_folder_that_cannot_be_made_is_a_typed_error(read_only: Path) -> None:
    def create() -> None:
        with pytest.raises(ReadOnlyStoreError, match="make the folder writable"):
            Store.open(read_only / "inner", create=True)

    assert in_a_child(create, user=NOBODY) == 0
