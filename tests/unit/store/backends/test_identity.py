"""What makes a place a store, whichever place it is."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store.backends.base import Backend
from store.backends.create import create_identity, write_format
from store.backends.identity import STORE_FORMAT, store_format, store_uuid
from store.backends.urls import open_backend
from store.errors import ConflictError, FormatError, NewerFormatError, StoreNotFoundError

NAME = "12345678-1234-5678-1234-567812345678"


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.service)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("bucket") if request.param == "bucket" else tmp_path / "store")


@pytest.fixture
def backend(place: str) -> Backend:
    return open_backend(place)


def test_a_store_has_one_identity_for_ever(backend: Backend) -> None:
    identity = create_identity(backend)
    assert uuid.UUID(identity).version == 4
    assert create_identity(backend) == store_uuid(backend) == identity
    assert store_format(backend) == STORE_FORMAT


def test_of_many_who_make_a_store_at_once_one_wins(place: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        identities = set(pool.map(lambda _: create_identity(open_backend(place)), range(4)))
    assert identities == {store_uuid(open_backend(place))}


def test_no_store_is_said_to_be_none_and_none_is_made(backend: Backend) -> None:
    for ask in (store_uuid, store_format, write_format):
        with pytest.raises(StoreNotFoundError, match=r"no store at .*onetrunk demo"):
            ask(backend)
    assert list(backend.list()) == []


def test_a_place_in_use_does_not_become_a_store(backend: Backend) -> None:
    backend.put("chapters/thesis.tex", b"x")
    with pytest.raises(ConflictError, match=r"holds 'chapters/thesis\.tex' and no store: choose an empty"):
        create_identity(backend)
    assert [file.path for file in backend.list()] == ["chapters/thesis.tex"]


def test_an_older_store_is_read_and_raised_with_its_name(backend: Backend) -> None:
    backend.put("store.json", json.dumps({"format": 1, "uuid": NAME}).encode())
    assert (store_uuid(backend), store_format(backend)) == (NAME, 1)
    assert create_identity(backend) == NAME
    write_format(backend)
    assert (store_uuid(backend), store_format(backend)) == (NAME, STORE_FORMAT)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", FormatError),
        (b"[]", FormatError),
        (b"null", FormatError),
        (b"\xff\xfe", FormatError),
        (b"[" * 100_000, FormatError),
        (b'{"format": 2}', FormatError),
        (b'{"format": 0, "uuid": "%b"}' % NAME.encode(), FormatError),
        (b'{"format": "1", "uuid": "%b"}' % NAME.encode(), FormatError),
        (b'{"format": 2, "uuid": "../../etc"}', FormatError),
        (b'{"format": %d, "uuid": "%b"}' % (STORE_FORMAT + 1, NAME.encode()), NewerFormatError),
    ],
)
def test_a_store_file_that_is_not_ours_is_refused_and_kept(
    tmp_path: Path, content: bytes, error: type[Exception]
) -> None:
    backend = open_backend(tmp_path)
    backend.put("store.json", content)
    for ask in (store_uuid, create_identity, write_format):
        with pytest.raises(error, match=r"store\.json"):
            ask(backend)
    assert backend.read("store.json") == content
