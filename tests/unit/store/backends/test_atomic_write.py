"""What a folder's writer asks of the system, in which order, and what it leaves when the system refuses."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from store.backends.local import LocalBackend
from store.errors import OnetrunkError, ReadOnlyStoreError, StorageError

CALLS = ("open", "write", "fsync", "mkdir", "link", "rename", "replace", "unlink")


@dataclass
class System:
    """The calls that change the disk, in order; the one of number `fails_at`, from 1, fails with `code`."""

    root: Path
    steps: list[str] = field(default_factory=list)
    fails_at: int = 0
    code: int = errno.EIO
    short: bool = False

    def spy(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def spied(*arguments: object, **options: object) -> object:
            if name == "open" and not int(str(arguments[1])) & os.O_CREAT:
                return call(*arguments, **options)
            self.steps.append(f"{name} {' '.join(self._shown(argument) for argument in arguments[: _operands(name)])}")
            if len(self.steps) == self.fails_at:
                raise OSError(self.code, os.strerror(self.code), str(arguments[0]))
            if self.short and name == "write":
                return call(arguments[0], bytes(arguments[1])[:3])  # type: ignore[call-overload]
            return call(*arguments, **options)

        return spied

    def _shown(self, argument: object) -> str:
        path = Path(f"/proc/self/fd/{argument}").readlink() if isinstance(argument, int) else Path(str(argument))
        shown = "ROOT" if path == self.root else ".." if path == self.root.parent else path.name
        return re.sub(r"^\..*\.[0-9a-f]{16}\.partial$", "TEMPORARY", shown)


def _operands(name: str) -> int:
    return 2 if name in ("link", "rename", "replace") else 1


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    system = System(tmp_path / "root")
    for name in CALLS:
        monkeypatch.setattr(os, name, system.spy(name, getattr(os, name)))
    return system


@pytest.fixture
def backend(system: System) -> LocalBackend:
    return LocalBackend(system.root)


WRITTEN = ["open TEMPORARY", "write TEMPORARY", "fsync TEMPORARY"]
MADE = ["mkdir ROOT", "fsync ..", "mkdir a", "fsync ROOT", "mkdir b", "fsync a"]
FOUND = [step for step in MADE if step.startswith("fsync")]
PUT = [*WRITTEN, "replace TEMPORARY x", "unlink TEMPORARY", "fsync b"]
CREATED = [*WRITTEN, "link TEMPORARY x", "unlink TEMPORARY", "fsync b"]


def test_every_folder_is_durable_before_the_next_and_the_bytes_before_their_name(
    system: System, backend: LocalBackend
) -> None:
    backend.put("a/b/x", b"data")
    assert system.steps == [*MADE, *PUT]


def test_a_folder_known_to_be_durable_is_not_synced_again(system: System, backend: LocalBackend) -> None:
    backend.put("a/b/x", b"old")
    system.steps.clear()
    backend.put("a/b/x", b"new")
    assert system.steps == PUT


def test_a_folder_that_another_process_made_is_synced_before_it_is_used(system: System, backend: LocalBackend) -> None:
    backend.put("a/b/y", b"data")
    system.steps.clear()
    LocalBackend(system.root).put("a/b/x", b"data")
    assert system.steps == [*FOUND, *PUT]


def test_an_object_is_created_by_a_link_and_the_folder_is_synced_for_the_loser_too(
    system: System, backend: LocalBackend
) -> None:
    assert backend.create("a/b/x", b"data")
    assert system.steps == [*MADE, *CREATED]
    system.steps.clear()
    assert not backend.create("a/b/x", b"data")
    assert system.steps == CREATED


def test_what_waits_for_its_turn_is_on_disk_by_then(system: System, backend: LocalBackend) -> None:
    before: list[str] = []
    assert backend.create("a/b/x", b"data", before_commit=lambda: before.extend(system.steps))
    assert before == [*MADE, *WRITTEN]


def test_what_another_process_has_put_is_synced_by_its_folder(system: System, backend: LocalBackend) -> None:
    backend.put("a/b/x", b"data")
    system.steps.clear()
    LocalBackend(system.root).sync("a/b/x")
    assert system.steps == ["fsync b"]  # that folder was durable before anything was put in it


def test_each_folder_of_what_is_deleted_is_synced_once(system: System, backend: LocalBackend) -> None:
    keys = ["a/x", "b/x", "a/y"]
    for key in keys:
        backend.put(key, b"")
    system.steps.clear()
    backend.delete([*keys, "none/z"])
    assert system.steps == ["unlink x", "unlink x", "unlink y", "unlink z", "fsync a", "fsync b"]


def test_an_object_that_moves_is_durable_at_its_new_place_first(system: System, backend: LocalBackend) -> None:
    backend.put("a/x", b"data")
    system.steps.clear()
    backend.move("a/x", "q/y")
    assert system.steps == ["mkdir q", "fsync ROOT", "rename x y", "fsync q", "fsync a"]


def test_what_the_system_writes_only_in_part_is_written_on(system: System, backend: LocalBackend) -> None:
    system.short = True
    backend.put("x", b"0123456789")
    assert backend.read("x") == b"0123456789"
    assert system.steps.count("write TEMPORARY") == 4


VERBS: dict[str, Callable[[LocalBackend], object]] = {
    "put": lambda backend: backend.put("a/b/new", b"new"),
    "replace": lambda backend: backend.put("a/x", b"new"),
    "create": lambda backend: backend.create("a/b/new", b"new"),
    "settle": lambda backend: backend.sync("a/x"),
    "delete": lambda backend: backend.delete(["a/x", "c/y"]),
    "move": lambda backend: backend.move("a/x", "quarantine/x"),
}
WHOLE = (None, b"old", b"new")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_call_that_fails_is_a_typed_error_and_nothing_is_half_there(
    system: System, backend: LocalBackend, verb: Callable[[LocalBackend], object], code: int
) -> None:
    for point in range(1, 100):
        for key in ("a/x", "c/y"):
            backend.put(key, b"old")
        system.steps, system.fails_at, system.code = [], point, code
        error = _error_of(partial(verb, LocalBackend(system.root)))
        system.fails_at = 0
        if len(system.steps) < point:
            break
        failed = system.steps[point - 1]
        # The root's own parent may be another user's, and closed to us.
        assert (error is None) == (failed == "fsync .." and code == errno.EACCES)
        left = {file.path: backend.read(file.path) for file in backend.list()}
        assert [path for path in left if path.endswith(".partial")] == [] or failed == "unlink TEMPORARY"
        assert set(left.values()) <= set(WHOLE)
        if left.get("a/x") == b"old":  # it did not happen, and nothing is in its way now
            verb(LocalBackend(system.root))
        backend.delete(list(left))
        backend.delete(["a/b/new", "quarantine/x"])
    assert point >= 2


def _error_of(action: Callable[[], object]) -> OnetrunkError | None:
    try:
        action()
    except (StorageError, ReadOnlyStoreError) as error:
        return error
    return None


@pytest.mark.parametrize(
    ("code", "error", "remedy"),
    [
        (errno.EIO, StorageError, "check the disk"),
        (errno.ENOSPC, StorageError, "free space"),
        (errno.EDQUOT, StorageError, "free space"),
        (errno.EROFS, ReadOnlyStoreError, "make the folder writable"),
        (errno.EACCES, ReadOnlyStoreError, "make the folder writable"),
        (errno.EPERM, ReadOnlyStoreError, "make the folder writable"),
    ],
)
def test_what_the_system_refuses_is_told_with_its_reason_and_a_remedy(
    system: System, backend: LocalBackend, code: int, error: type[Exception], remedy: str
) -> None:
    system.fails_at, system.code = 3, code
    with pytest.raises(error, match=rf"{re.escape(os.strerror(code))}\): .*{remedy}"):
        backend.put("a", b"x")


def test_a_temporary_file_that_a_crash_has_left_is_seen(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "unlink", Path)  # anything that removes nothing
    backend.put("blobs/x", b"data")
    backend.create("blobs/y", b"data")
    names = sorted(file.path for file in backend.list())
    assert [re.sub(r"[0-9a-f]{16}", "TOKEN", name) for name in names] == [
        "blobs/.y.TOKEN.partial",
        "blobs/x",
        "blobs/y",
    ]
