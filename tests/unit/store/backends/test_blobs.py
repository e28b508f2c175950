"""Bytes named by their digest: what comes out is what went in, or an error that says where to look."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store.backends.base import Backend
from store.backends.blobs import Blobs
from store.backends.layout import blob_key, journal_key, kind_of, quarantine_key
from store.backends.urls import open_backend
from store.errors import IntegrityError
from store.records.blob import Blob

DATA = b"adapter weights " * 100


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.service)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return open_backend(request.getfixturevalue("bucket") if request.param == "bucket" else tmp_path / "store")


@pytest.fixture
def blobs(backend: Backend) -> Blobs:
    return Blobs(backend)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "a missing last byte": lambda data: data[:-1],
    "nothing left": lambda data: data[:0],
    "a byte too many": lambda data: data + b"\0",
}
every_damage = pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)


def kinds(backend: Backend) -> list[str]:
    return sorted(kind_of(file.path) for file in backend.list())


def test_a_blob_is_named_by_its_bytes(blobs: Blobs, backend: Backend) -> None:
    blob = blobs.put(DATA)
    assert blob == Blob(hashlib.sha256(DATA).hexdigest(), len(DATA))
    assert blobs.get(blob) == DATA
    assert blobs.holds(blob)
    assert blobs.locate(blob) == f"{backend.url}/blobs/sha256/{blob.sha256[:2]}/{blob.sha256}"


def test_the_same_bytes_are_kept_once(blobs: Blobs, backend: Backend) -> None:
    assert blobs.put(DATA) == blobs.put(DATA)
    assert kinds(backend) == ["blob"]


def test_no_bytes_are_a_blob_too(blobs: Blobs) -> None:
    assert blobs.get(blobs.put(b"")) == b""


def test_many_who_put_the_same_bytes_at_once_agree(blobs: Blobs, backend: Backend) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(blobs.put, [DATA] * 8))
    assert len(names) == 1
    assert kinds(backend) == ["blob"]
    assert blobs.get(names.pop()) == DATA


def test_the_first_bytes_can_be_had_without_the_rest(blobs: Blobs) -> None:
    assert blobs.prefix(blobs.put(DATA), 7) == DATA[:7]


def test_a_missing_blob_is_said_to_be_missing(blobs: Blobs) -> None:
    blob = Blob.of(DATA)
    for call in (lambda: blobs.get(blob), lambda: blobs.prefix(blob, 1)):
        with pytest.raises(IntegrityError, match=f"{blob.sha256} is missing: restore the file"):
            call()
    assert not blobs.holds(blob)
    assert blobs.quarantine(blob) is None


@every_damage
def test_a_damaged_blob_is_never_given_out(blobs: Blobs, backend: Backend, how: Callable[[bytes], bytes]) -> None:
    blob = blobs.put(DATA)
    backend.put(blob_key(blob.sha256), how(DATA))
    with pytest.raises(IntegrityError, match=f"{blob.sha256} has .*: restore the file"):
        blobs.get(blob)
    assert blobs.holds(blob) == (len(how(DATA)) == len(DATA))


@every_damage
def test_a_damaged_blob_is_mended_by_the_same_bytes_and_set_aside(
    blobs: Blobs, backend: Backend, how: Callable[[bytes], bytes]
) -> None:
    blob = blobs.put(DATA)
    backend.put(blob_key(blob.sha256), how(DATA))
    assert blobs.put(DATA) == blob
    assert blobs.get(blob) == DATA
    (quarantined,) = backend.list("quarantine")
    assert backend.read(quarantined.path) == how(DATA)
    assert blob.sha256 in quarantined.path


@every_damage
def test_a_damaged_blob_is_set_aside_and_not_deleted(
    blobs: Blobs, backend: Backend, how: Callable[[bytes], bytes]
) -> None:
    blob = blobs.put(DATA)
    backend.put(blob_key(blob.sha256), how(DATA))
    key = blobs.quarantine(blob)
    assert key is not None
    assert backend.read(key) == how(DATA)
    assert kinds(backend) == ["quarantine"]
    assert blobs.quarantine(blob) is None


def test_a_whole_blob_is_not_set_aside(blobs: Blobs) -> None:
    blob = blobs.put(DATA)
    assert blobs.quarantine(blob) is None
    assert blobs.get(blob) == DATA


def test_the_same_blob_can_be_set_aside_twice(blobs: Blobs, backend: Backend) -> None:
    for broken in (b"one", b"two"):
        backend.put(blob_key(Blob.of(DATA).sha256), broken)
        blobs.put(DATA)
    assert sorted(backend.read(file.path) for file in backend.list("quarantine")) == [b"one", b"two"]


SHA256 = "0f" * 32


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (blob_key(SHA256), "blob"),
        (quarantine_key(SHA256, "1a2b"), "quarantine"),
        (journal_key(7), "overhead"),
        ("store.json", "overhead"),
        ("catalogue.sqlite", "overhead"),
        ("catalogue.sqlite-wal", "overhead"),
        ("catalogue.lock", "overhead"),
        (f"blobs/sha256/00/{SHA256}", "garbage"),
        (f"blobs/sha256/0f/{SHA256.upper()}", "garbage"),
        (f"blobs/sha256/0f/.{SHA256}.0123.partial", "garbage"),
        ("journal/7.json", "garbage"),
        ("probe/1-0", "garbage"),
        ("notes.txt", "garbage"),
    ],
)
def test_every_key_has_a_kind(key: str, kind: str) -> None:
    assert kind_of(key) == kind
