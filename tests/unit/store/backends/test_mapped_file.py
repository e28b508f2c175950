"""Bytes without a copy: the same as with one, never used before they are verified, and no fault ends the process."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from store.adapters.safetensors_header import parse_view
from store.backends.blobs import Blobs
from store.backends.layout import blob_key
from store.backends.local import LocalBackend
from store.backends.mapped_file import MAPPED_NBYTES, map_file
from store.backends.urls import open_backend
from store.errors import FormatError, IntegrityError, StorageError
from store.records.blob import Blob

LARGE = os.urandom(3 * MAPPED_NBYTES + 5)
every_size = pytest.mark.parametrize("data", [b"", b"x", LARGE[: MAPPED_NBYTES - 1], LARGE], ids=len)


@pytest.fixture(params=[0, 1 << 20], ids=["hashed by a thread", "hashed first"])
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.backends.blobs.FEW_NBYTES", request.param)


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.service)])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, _few: None) -> Blobs:
    return Blobs(open_backend(request.getfixturevalue("bucket") if request.param == "bucket" else tmp_path / "store"))


@every_size
def test_a_view_has_the_bytes_of_the_file_whatever_its_size(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    view = map_file(str(tmp_path / "file"))
    assert view == data
    assert not view.readonly


def test_what_is_written_to_a_view_is_in_no_file_and_in_no_other_view(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    first, second = map_file(str(path)), map_file(str(path))
    first[7] ^= 1
    assert first != LARGE
    assert second == path.read_bytes() == LARGE


def test_a_large_file_is_mapped_and_no_longer_so_once_nothing_looks_at_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    view = map_file(str(path))
    assert str(path) in Path("/proc/self/maps").read_text()
    assert view[-1] == LARGE[-1]
    del view
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_view_outlives_the_name_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    view = map_file(str(path))
    path.unlink()
    assert view == LARGE


def test_where_no_memory_is_left_to_map_a_file_that_is_said_and_the_process_goes_on(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)  # holes: it takes no disk
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 38, hard))
    try:
        with pytest.raises(StorageError, match=r"huge cannot be read \(Cannot allocate memory\): check the disk"):
            backend.view("huge")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_missing_file_and_a_folder_are_missing(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    (tmp_path / "folder").mkdir()
    for key in ("file", "folder"):
        with pytest.raises(FileNotFoundError, match="is missing"):
            backend.view(key)


def test_blobs_that_are_viewed_have_the_bytes_that_were_put(blobs: Blobs) -> None:
    put = [blobs.put(data) for data in (LARGE, b"small", b"")]
    with blobs.viewing(*put) as views:
        assert list(views) == [LARGE, b"small", b""]
    assert list(views) == [LARGE, b"small", b""]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "its first bit flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "its last bit flipped": lambda data: data[:-1] + bytes([data[-1] ^ 128]),
    "its last byte missing": lambda data: data[:-1],
    "a byte too many": lambda data: data + b"\0",
}


@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_no_block_over_damaged_bytes_ends_without_an_error_that_names_the_file(
    blobs: Blobs, data: bytes, how: Callable[[bytes], bytes]
) -> None:
    whole, blob = blobs.put(b"whole"), blobs.put(data)
    blobs._backend.put(blob_key(blob.sha256), how(data))
    with pytest.raises(IntegrityError, match=f"{blob.sha256} has .*: restore the file"), blobs.viewing(whole, blob):
        pass


def test_an_error_that_damaged_bytes_lead_to_is_told_as_the_damage_that_it_is(blobs: Blobs) -> None:
    blob = blobs.put(LARGE)
    blobs._backend.put(blob_key(blob.sha256), LARGE[::-1])
    with pytest.raises(IntegrityError, match="not the one that names it"), blobs.viewing(blob) as (view,):
        parse_view(view, "adapter")


def test_an_error_over_whole_bytes_stays_what_it_is(blobs: Blobs) -> None:
    blob = blobs.put(LARGE)
    with pytest.raises(FormatError, match="adapter: its header"), blobs.viewing(blob) as (view,):
        parse_view(view, "adapter")


def test_a_blob_that_is_missing_is_said_to_be_so_before_anything_is_done(blobs: Blobs) -> None:
    with pytest.raises(IntegrityError, match="is missing: restore"), blobs.viewing(Blob.of(b"never put")):
        pytest.fail("the block ran")
