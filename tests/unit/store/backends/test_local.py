"""What a folder can hold that a bucket cannot: links, folders, files of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.backends.local import LocalBackend
from store.errors import StorageError


def test_no_file_of_a_store_can_be_written_again(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.put("x", b"data")
    backend.create("y", b"data")
    assert {path.stat().st_mode & 0o222 for path in backend.root.iterdir()} == {0}


def test_a_link_counts_as_itself_and_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(b"x" * 1000)
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "big")
    (root / "loop").symlink_to(root)
    sizes = {file.path: file.nbytes for file in LocalBackend(root).list()}
    assert sizes == {name: len(str(target)) for name, target in _links(root).items()}


def _links(root: Path) -> dict[str, Path]:
    return {path.name: path.readlink() for path in root.iterdir()}


def test_a_folder_where_an_object_should_be_is_a_missing_object(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.put("a/b", b"x")
    for key in ("a", "a/b/c"):
        assert backend.size(key) is None
        with pytest.raises(FileNotFoundError, match="is missing"):
            backend.read(key)
    with pytest.raises(StorageError, match="cannot be written"):
        backend.put("a", b"x")
    with pytest.raises(StorageError, match="cannot be written"):
        backend.put("a/b/c", b"x")
    backend.delete(["a/b/c"])
    assert backend.read("a/b") == b"x"


def test_a_root_is_made_where_one_is_needed_and_reading_makes_none(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "a" / "b")
    assert list(backend.list()) == []
    backend.delete(["x"])
    assert not (tmp_path / "a").exists()
    backend.put("x", b"")
    assert [file.path for file in backend.list()] == ["x"]


def test_a_folder_that_was_removed_under_a_writer_is_made_again(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "root")
    backend.put("a/x", b"")
    backend.delete(["a/x"])
    (tmp_path / "root" / "a").rmdir()
    backend.put("a/x", b"again")
    assert backend.read("a/x") == b"again"


def test_a_root_relative_to_the_working_folder_is_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for root in (".", "store"):
        LocalBackend(Path(root)).put("a/x", b"data")
    assert (tmp_path / "a" / "x").read_bytes() == (tmp_path / "store" / "a" / "x").read_bytes() == b"data"
