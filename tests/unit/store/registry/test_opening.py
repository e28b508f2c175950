from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support.processes import snapshot
from support.toy_backbone import publish

from store.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    InvalidSettingError,
    NewerFormatError,
    StoreBusyError,
    StoreNotFoundError,
)
from store.maintenance.verify import verify
from store.queries import sqlite
from store.registry.store import Store


def test_reading_leaves_no_file_behind(store: Store, folder: Path) -> None:
    publish(store, folder)
    store.close()
    before = snapshot(store.root)
    with Store.open(store.root) as reader:
        reader.versions()
    assert snapshot(store.root) == before


def test_a_copy_of_the_folder_is_the_store(store: Store, folder: Path, tmp_path: Path) -> None:
    version = publish(store, folder)
    copy = Store.open(shutil.copytree(store.root, tmp_path / "copy"))
    assert copy.resolve("flowers") == version
    assert verify(copy) == []


def test_an_absent_store_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"open_store\(url, create=True\)"):
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
    assert verify(Store.open(tmp_path / "store")) == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", FormatError),
        ("[]", FormatError),
        ('{"format": 1}', FormatError),
        ('{"format": "1", "uuid": "12345678123456781234567812345678"}', FormatError),
        ('{"format": 3, "uuid": "12345678123456781234567812345678"}', NewerFormatError),
    ],
)
def test_a_store_file_that_is_not_ours_is_refused(store: Store, content: str, error: type[Exception]) -> None:
    (store.root / "store.json").unlink()
    (store.root / "store.json").write_text(content)
    with pytest.raises(error):
        Store.open(store.root, create=True)


def test_a_lost_catalogue_is_not_replaced_by_an_empty_one(store: Store) -> None:
    (store.root / "catalogue.sqlite").unlink()
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


def test_a_catalogue_that_stays_locked_is_a_typed_error(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    with closing(sqlite3.connect(store.root / "catalogue.sqlite", isolation_level=None)) as writer:
        writer.execute("begin immediate")
        store.release_connections()  # the patience of a connection is that of the time when it was opened
        with pytest.raises(StoreBusyError, match="wait until the other writer ends"):
            publish(store, folder)
    store.release_connections()
    assert publish(store, folder).number == 1


def test_importing_the_store_is_quick_and_brings_no_tensor_library() -> None:
    code = (
        "import sys, store.registry.store, store.accounting.report; "
        "print([m for m in ('torch', 'numpy', 'timm', 'peft', 'ray', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
