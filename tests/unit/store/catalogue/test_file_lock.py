from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from support.processes import in_a_child, stopped
from support.toy_backbone import publish

from store.catalogue import database
from store.catalogue.file_lock import FileLock, lock_holder
from store.errors import StoreBusyError
from store.registry.store import Store

HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def held_elsewhere(path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Hold the lock in another process, which stands still."""
    return stopped(HOLD, str(path), says="held")


def waiting_threads() -> int:
    return sum(thread.name == "catalogue lock" for thread in threading.enumerate())


def until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def lock(tmp_path: Path) -> FileLock:
    return FileLock(tmp_path / "catalogue.lock")


def test_one_at_a_time_holds_it(lock: FileLock) -> None:
    inside, most = [], []

    def work(number: int) -> None:
        with lock.held(limit_s=30):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.002)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most == [1] * 40
    assert waiting_threads() == 0


def test_a_holder_that_stands_still_is_named_when_the_time_is_over(lock: FileLock, tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "catalogue.lock") as process:
        start = time.monotonic()
        told = rf"held by process {process.pid} for over 0.05 s: .*kill -CONT"
        with pytest.raises(StoreBusyError, match=told), lock.held(limit_s=0.05):
            pass
        assert 0.05 <= time.monotonic() - start < 5
        assert lock_holder(tmp_path / "catalogue.lock") == process.pid
    with lock.held(limit_s=10):  # the thread that was left in the queue hands over what it got, or gave it back
        assert lock_holder(tmp_path / "catalogue.lock") == os.getpid()
    until(lambda: waiting_threads() == 0)
    assert lock_holder(tmp_path / "catalogue.lock") is None


def test_a_hundred_writers_that_give_up_one_after_the_other_leave_one_thread(lock: FileLock, tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "catalogue.lock"):
        for _ in range(100):
            with pytest.raises(StoreBusyError), lock.held(limit_s=0.001):
                pass
        assert waiting_threads() == 1
    until(lambda: waiting_threads() == 0)
    with lock.held(limit_s=1):
        pass


def test_a_fork_takes_no_place_in_the_queue_of_its_parent(lock: FileLock, tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "catalogue.lock"), pytest.raises(StoreBusyError), lock.held(limit_s=0.01):
        pass

    def take() -> None:
        with lock.held(limit_s=10):
            pass

    assert in_a_child(take) == 0


def test_a_fork_that_lives_on_does_not_keep_what_its_parent_gives_back(lock: FileLock, tmp_path: Path) -> None:
    ended, end = os.pipe()
    with lock.held(limit_s=1):
        if (child := os.fork()) == 0:
            os.close(end)
            os.read(ended, 1)
            os._exit(0)
    try:
        assert lock_holder(tmp_path / "catalogue.lock") is None
        with FileLock(tmp_path / "catalogue.lock").held(limit_s=1):
            pass
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.close(end)
        os.close(ended)
        os.waitpid(child, 0)


def test_a_fork_that_leaves_the_block_leaves_the_lock_to_its_parent(lock: FileLock, tmp_path: Path) -> None:
    with ExitStack() as block:
        block.enter_context(lock.held(limit_s=1))
        assert in_a_child(block.close) == 0
        with pytest.raises(StoreBusyError), FileLock(tmp_path / "catalogue.lock").held(limit_s=0.05):
            pass


def test_a_writer_of_the_store_gets_the_typed_error_and_readers_go_on(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_S", 0.05)
    publish(store, folder)
    with held_elsewhere(store.root / "catalogue.lock"):
        with pytest.raises(StoreBusyError, match=r"catalogue\.lock is held by process"):
            store.set_tag("flowers", "team", "vision")
        assert store.resolve("flowers").number == 1
    store.set_tag("flowers", "team", "vision")
    assert store.tags("flowers") == {"team": "vision"}
