"""A place that lies about what it does is found out before anything depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from store.backends.base import Backend, StoredFile, no_op
from store.backends.create import create_identity
from store.backends.identity import store_uuid
from store.backends.local import LocalBackend
from store.backends.probe import probe
from store.backends.urls import open_backend
from store.errors import ConflictError, StorageError


class Remote(LocalBackend):
    """A folder that another machine might serve: it is trusted when it is proved."""

    @property
    def remote(self) -> bool:
        return True


class IgnoresConditions(Remote):
    def create(self, key: str, data: bytes, *, before_commit: Callable[[], None] = no_op) -> bool:
        before_commit()
        self.put(key, data)
        return True


class ChecksThenWrites(Remote):
    def create(self, key: str, data: bytes, *, before_commit: Callable[[], None] = no_op) -> bool:
        before_commit()
        if self.size(key) is not None:
            return False
        self.put(key, data)
        return True


class TellsNobody(Remote):
    def create(self, key: str, data: bytes, *, before_commit: Callable[[], None] = no_op) -> bool:
        super().create(key, data, before_commit=before_commit)
        return False


class KeepsTheFirst(Remote):
    def put(self, key: str, data: bytes) -> None:
        self.create(key, data)


class ListsLate(Remote):
    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        return iter(list(super().walk(prefix))[:-1])


class ListsGhosts(Remote):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.seen: dict[str, StoredFile] = {}

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        self.seen.update({file.path: file for file in super().walk(prefix)})
        return iter(self.seen.values())


class DeletesNothing(Remote):
    def delete(self, keys: Sequence[str]) -> None:
        pass


class Copies(Remote):
    def move(self, key: str, to: str) -> None:
        self.put(to, self.read(key))


LIES: dict[Callable[[Path], Backend], str] = {
    IgnoresConditions: "a key is created once",
    ChecksThenWrites: "a key is created once",
    TellsNobody: "a key is created once",
    KeepsTheFirst: "what was written is what is read",
    ListsLate: "a list shows what is there",
    ListsGhosts: "a list shows what is there",
    DeletesNothing: "a key is free once its object is gone",
    Copies: "a key is free once its object is gone",
}


@pytest.mark.parametrize(("liar", "promise"), LIES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_place_that_breaks_a_promise_is_found_out(
    tmp_path: Path, liar: Callable[[Path], Backend], promise: str
) -> None:
    assert promise in {flaw.promise for flaw in probe(liar(tmp_path))}


@pytest.mark.parametrize("liar", [IgnoresConditions, ChecksThenWrites, TellsNobody])
def test_no_store_is_made_where_a_key_can_be_created_twice(tmp_path: Path, liar: Callable[[Path], Backend]) -> None:
    with pytest.raises(StorageError, match=r"cannot hold a store \(a key is created once: .*If-None-Match"):
        create_identity(liar(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_honest_place_has_no_flaw_and_keeps_nothing_of_the_trial(tmp_path: Path) -> None:
    backend = Remote(tmp_path)
    assert probe(backend) == []
    assert list(backend.list()) == []


def test_a_folder_is_not_put_on_trial_when_a_store_is_made(tmp_path: Path) -> None:
    create_identity(open_backend(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


@pytest.mark.service
def test_a_real_bucket_keeps_every_promise(bucket: str) -> None:
    backend = open_backend(bucket)
    assert probe(backend, rounds=2) == []
    assert list(backend.list()) == []


@pytest.mark.service
def test_a_store_is_made_in_a_real_bucket_once(bucket: str) -> None:
    identity = create_identity(open_backend(bucket))
    assert create_identity(open_backend(bucket)) == store_uuid(open_backend(bucket)) == identity
    assert [file.path for file in open_backend(bucket).list()] == ["store.json"]


@pytest.mark.service
def test_a_bucket_in_use_does_not_become_a_store(bucket: str) -> None:
    open_backend(bucket).put("thesis.tex", b"x")
    with pytest.raises(ConflictError, match=r"thesis\.tex"):
        create_identity(open_backend(bucket))


def test_what_a_trial_has_left_that_died_is_no_obstacle(tmp_path: Path) -> None:
    backend = Remote(tmp_path)
    backend.put("probe/1-0", b"left")
    assert create_identity(backend) == store_uuid(backend)
