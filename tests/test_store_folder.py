from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from processes import in_a_child, snapshot
from toys import publish, relabel

from store import database
from store.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    InvalidSettingError,
    NewerFormatError,
    StoreNotFoundError,
)
from store.files import create_durably, replace_durably
from store.store import Store

MAX_SYNCS_OF_A_PUBLISH = 9  # fewer where two digests start alike and share a folder


def test_reading_leaves_no_file_behind(store: Store, folder: Path) -> None:
    publish(store, folder)
    before = snapshot(store.root)
    with Store.open(store.root) as reader:
        reader.versions()
    assert snapshot(store.root) == before


def test_a_copy_of_the_folder_is_the_store(store: Store, folder: Path, tmp_path: Path) -> None:
    version = publish(store, folder)
    copy = Store.open(shutil.copytree(store.root, tmp_path / "copy"))
    assert copy.resolve("flowers") == version
    assert copy.verify() == []


def test_an_absent_store_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="onetrunk demo"):
        Store.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_in_use_does_not_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConflictError, match=r"thesis\.tex"):
        Store.open(tmp_path, create=True)


def test_processes_that_make_the_same_store_agree_on_it(tmp_path: Path) -> None:
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                Store.open(tmp_path / "store", create=True)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 6
    assert Store.open(tmp_path / "store").verify() == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", FormatError),
        ("[]", FormatError),
        ('{"format": 1}', FormatError),
        ('{"format": "1", "uuid": "12345678123456781234567812345678"}', FormatError),
        ('{"format": 2, "uuid": "12345678123456781234567812345678"}', NewerFormatError),
    ],
)
def test_a_store_file_that_is_not_ours_is_refused(store: Store, content: str, error: type[Exception]) -> None:
    store.layout.identity_file.unlink()
    store.layout.identity_file.write_text(content)
    with pytest.raises(error):
        Store.open(store.root, create=True)


def test_a_lost_catalogue_is_not_replaced_by_an_empty_one(store: Store) -> None:
    store.layout.catalogue.unlink()
    with pytest.raises(IntegrityError, match="restore it"):
        Store.open(store.root, create=True)


def test_a_catalogue_may_lie_elsewhere_and_belongs_to_one_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'names.sqlite'}"
    Store.open(tmp_path / "a", create=True, catalogue=url)
    assert Store.open(tmp_path / "a", catalogue=url).versions() == []
    with pytest.raises(ConflictError, match="name its own"):
        Store.open(tmp_path / "b", create=True, catalogue=url)


@pytest.mark.parametrize("url", ["nonsense", "oracle+nothing://user:secret@host/x", "sqlite://"])
def test_a_catalogue_url_that_cannot_be_opened_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        Store.open(tmp_path / "a", create=True, catalogue=url)
    assert "secret" not in str(caught.value)


def test_bytes_are_synced_before_they_are_named_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, bool]] = []
    target, sync = tmp_path / "blob", os.fsync

    def spy(descriptor: int) -> None:
        steps.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, target.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    replace_durably(target, b"data")
    assert [(name == tmp_path.name, named) for name, named in steps] == [(False, False), (True, True)]
    assert target.read_bytes() == b"data"


def test_only_the_first_writer_creates(tmp_path: Path) -> None:
    assert create_durably(tmp_path / "x", b"first")
    assert not create_durably(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("point", range(1, MAX_SYNCS_OF_A_PUBLISH + 2))
def test_a_publish_that_dies_at_any_sync_shows_nothing_half_written(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    publish(store, folder)
    sync, calls = os.fsync, iter(range(1, 1000))

    def die_at_the_point(descriptor: int) -> None:
        sync(descriptor)
        if next(calls) == point:
            os._exit(9)

    monkeypatch.setattr(os, "fsync", die_at_the_point)
    code = in_a_child(lambda: publish(store, relabel(folder, "a", "b", "c")))
    monkeypatch.undo()
    assert code == 0 if point > MAX_SYNCS_OF_A_PUBLISH else code in (0, 9)
    assert [version.version for version in store.versions()] == ([1, 2] if code == 0 else [1])
    assert store.verify() == []
    assert publish(store, folder).version == 2


def test_a_catalogue_that_stays_locked_is_a_typed_error(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    with closing(sqlite3.connect(store.layout.catalogue, isolation_level=None)) as writer:
        writer.execute("begin immediate")
        with pytest.raises(ConflictError, match="let the other writer end"):
            publish(store, folder)
    assert publish(store, folder).version == 1


def test_importing_the_store_is_quick_and_brings_no_tensor_library() -> None:
    code = (
        "import sys, store.store, store.report; "
        "print([m for m in ('torch', 'numpy', 'timm', 'peft', 'ray', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
