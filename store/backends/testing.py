"""The tests that every backend passes: a test class inherits `BackendTests` and gives a `backend` fixture.

The one module of the package that needs pytest: tests import it, and no other module does.

    class TestMine(BackendTests):
        @pytest.fixture
        def backend(self, tmp_path: Path) -> Backend:
            return MyBackend(tmp_path)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from store.backends.base import Backend
from store.errors import ConflictError, InvalidNameError

MIB = 2**20
CONTENTS: dict[str, Callable[[], bytes]] = {
    "no bytes": lambda: b"",
    "one byte": lambda: b"\0",
    "every byte": lambda: bytes(range(256)),
    "5 MB": lambda: os.urandom(5_000_000),
    "more than one part": lambda: os.urandom(40 * MIB + 1),
}
ODD_KEYS = (
    "/",
    ".",
    "..",
    "/etc/passwd",
    "a/../../b",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a\\..\\b",
    "a%2e%2e",
    "a b",
    "a?b",
    "a#b",
    "ä",
    "\u202e",
    "s3://other/b",
    "x" * 201,
)
VERBS: dict[str, Callable[[Backend, str], object]] = {
    "read": lambda backend, key: backend.read(key),
    "read_prefix": lambda backend, key: backend.read_prefix(key, 1),
    "size": lambda backend, key: backend.size(key),
    "put": lambda backend, key: backend.put(key, b""),
    "create": lambda backend, key: backend.create(key, b""),
    "sync": lambda backend, key: backend.sync(key),
    "delete": lambda backend, key: backend.delete(["fine", key]),
    "move from": lambda backend, key: backend.move(key, "fine"),
    "move to": lambda backend, key: backend.move("fine", key),
    "list": lambda backend, key: list(backend.list(key)),
}
every_content = pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)


def paths(backend: Backend, prefix: str = "") -> list[str]:
    return sorted(file.path for file in backend.list(prefix))


class BackendTests:
    """What a `Backend` promises; `backend` must be empty, and its root may not exist yet."""

    @every_content
    def test_what_was_put_is_read(self, backend: Backend, content: Callable[[], bytes]) -> None:
        data = content()
        backend.put("a/b/c", data)
        assert backend.read("a/b/c") == data
        assert backend.size("a/b/c") == len(data)

    @every_content
    def test_what_was_created_is_read(self, backend: Backend, content: Callable[[], bytes]) -> None:
        data = content()
        assert backend.create("a/b/c", data)
        assert backend.read("a/b/c") == data

    @pytest.mark.parametrize("nbytes", [0, 1, 8, 999, 1000, 1001])
    def test_the_first_bytes_are_read_alone(self, backend: Backend, nbytes: int) -> None:
        data = os.urandom(1000)
        backend.put("a", data)
        assert backend.read_prefix("a", nbytes) == data[:nbytes]

    def test_an_empty_object_has_an_empty_prefix(self, backend: Backend) -> None:
        backend.put("a", b"")
        assert backend.read_prefix("a", 8) == b""

    def test_put_replaces(self, backend: Backend) -> None:
        backend.put("a", b"a long first")
        backend.put("a", b"second")
        assert backend.read("a") == b"second"
        assert backend.size("a") == 6

    def test_only_the_first_creates(self, backend: Backend) -> None:
        assert backend.create("a/x", b"first")
        assert not backend.create("a/x", b"second")
        assert backend.read("a/x") == b"first"
        assert paths(backend) == ["a/x"]

    def test_an_object_is_not_seen_before_its_commit(self, backend: Backend) -> None:
        seen: list[int | None] = []
        assert backend.create("a/x", b"mine", before_commit=lambda: seen.append(backend.size("a/x")))
        assert set(seen) == {None}
        assert backend.read("a/x") == b"mine"

    def test_an_object_whose_commit_is_refused_is_not_created(self, backend: Backend) -> None:
        def refuse() -> None:
            raise ConflictError("no commit")

        with pytest.raises(ConflictError, match="no commit"):
            backend.create("a/x", b"mine", before_commit=refuse)
        assert paths(backend) == []

    def test_what_was_put_is_not_created(self, backend: Backend) -> None:
        backend.put("a", b"put")
        assert not backend.create("a", b"put")

    def test_a_key_is_free_again_when_its_object_is_deleted(self, backend: Backend) -> None:
        backend.create("a", b"first")
        backend.delete(["a"])
        assert backend.create("a", b"second")
        assert backend.read("a") == b"second"

    @pytest.mark.parametrize("round_", range(3))
    def test_of_many_that_create_at_once_one_wins(self, backend: Backend, round_: int) -> None:
        start = Barrier(8)

        def create(writer: int) -> bool:
            start.wait()
            return backend.create(f"race-{round_}", b"%d" % writer)

        with ThreadPoolExecutor(8) as pool:
            wins = list(pool.map(create, range(8)))
        assert wins.count(True) == 1
        assert backend.read(f"race-{round_}") == b"%d" % wins.index(True)

    def test_a_reader_sees_one_of_several_concurrent_puts_whole(self, backend: Backend) -> None:
        values = [bytes([n]) * 100_000 for n in range(4)]
        backend.put("a", values[0])
        with ThreadPoolExecutor(4) as pool:
            writes = [pool.submit(backend.put, "a", values[n % 4]) for n in range(24)]
            while not all(write.done() for write in writes):
                assert backend.read("a") in values
        assert [write.result() for write in writes] == [None] * 24

    def test_a_missing_object_is_reported_as_missing(self, backend: Backend) -> None:
        assert backend.size("a/none") is None
        for call in (
            lambda: backend.read("a/none"),
            lambda: backend.read_prefix("a/none", 1),
            lambda: backend.move("a/none", "b"),
        ):
            with pytest.raises(FileNotFoundError, match=r"a/none"):
                call()
        assert paths(backend) == []

    def test_delete_removes_what_exists_and_ignores_the_rest(self, backend: Backend) -> None:
        for key in ("a/1", "a/2", "b/3", "c"):
            backend.put(key, b"x")
        backend.delete(["a/none", "a/1", "none/at/all", "b/3", "c"])
        assert paths(backend) == ["a/2"]
        backend.delete([])
        assert paths(backend) == ["a/2"]

    def test_move_renames(self, backend: Backend) -> None:
        backend.put("a/x", b"moved")
        backend.move("a/x", "b/c/y")
        assert backend.read("b/c/y") == b"moved"
        assert backend.size("a/x") is None
        assert paths(backend) == ["b/c/y"]

    def test_list_yields_every_key_with_its_size_and_time(self, backend: Backend) -> None:
        sizes = {"a": 0, "b/c": 10, "b/d/e": 2000}
        start = time.time()
        for key, nbytes in sizes.items():
            backend.put(key, b"x" * nbytes)
        files = list(backend.list())
        assert {file.path: file.nbytes for file in files} == sizes
        assert all(start - 2 < file.modified_at < time.time() + 2 for file in files)

    def test_list_stays_within_its_prefix(self, backend: Backend) -> None:
        for key in ("blobs/1", "blobs/a/2", "blobs2/3", "x/blobs/4"):
            backend.put(key, b"")
        assert paths(backend, "blobs") == ["blobs/1", "blobs/a/2"]
        assert paths(backend, "blobs/a") == ["blobs/a/2"]
        assert paths(backend, "blob") == paths(backend, "none/at/all") == []

    def test_list_has_no_last_page(self, backend: Backend) -> None:
        keys = [f"many/{number:04d}" for number in range(1100)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: backend.put(key, b""), keys))
        assert paths(backend) == keys
        backend.delete(keys)
        assert paths(backend) == []

    def test_a_blob_is_known_by_its_path_alone(self, backend: Backend) -> None:
        sha256 = "ab" * 32
        for key in (f"blobs/sha256/ab/{sha256}", f"blobs/sha256/cd/{sha256}", f"quarantine/{sha256}.1"):
            backend.put(key, b"")
        assert [file.sha256 for file in sorted(backend.list(), key=lambda file: file.path)] == [sha256, None, None]

    def test_what_another_has_put_can_be_synced(self, backend: Backend) -> None:
        backend.put("a/b", b"x")
        backend.sync("a/b")
        assert backend.read("a/b") == b"x"

    def test_a_key_is_located_under_the_root(self, backend: Backend) -> None:
        assert backend.locate("a/b") == f"{backend.url}/a/b"

    @pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
    def test_a_key_that_could_name_another_place_is_refused(
        self, backend: Backend, verb: Callable[[Backend, str], object]
    ) -> None:
        backend.put("fine", b"x")
        for key in ODD_KEYS if verb is VERBS["list"] else ("", *ODD_KEYS):  # the prefix "" lists everything
            with pytest.raises(InvalidNameError, match="not valid: use letters"):
                verb(backend, key)
        assert paths(backend) == ["fine"]
