from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.toy_backbone import publish, relabel

from serving.runtime import ref_cache, store_watch
from serving.runtime.ref_cache import RefCache
from serving.runtime.store_watch import StoreWatch
from store.errors import InvalidNameError, StorageError, TaskNotFoundError
from store.maintenance.rebuild import rebuild
from store.registry.store import Store


@pytest.fixture
def versions(store: Store, folder: Path) -> None:
    """Two versions of `flowers`; `latest` and `prod` name the second."""
    publish(store, folder)
    publish(store, relabel(folder, "a", "b", "c"), aliases=("prod",))


@pytest.fixture
def watch(store: Store, versions: None) -> Iterator[StoreWatch]:
    del versions
    watch = StoreWatch(store)
    yield watch
    watch.close()


@pytest.fixture
def refs(store: Store, watch: StoreWatch) -> Iterator[RefCache]:
    refs = RefCache(store, watch)
    yield refs
    refs.close()


def until(condition: Callable[[], bool]) -> float:
    """Wait until it holds; return the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + 10
        threading.Event().wait(0.01)
    return time.monotonic() - start


def names(refs: RefCache, ref: str) -> int | str:
    try:
        return refs.resolve(ref).number
    except (StorageError, TaskNotFoundError) as error:
        return type(error).__name__


@pytest.mark.parametrize("ref", [None, 7, b"flowers", "", "a b", "x" * 100_000])
def test_what_is_no_ref_is_a_typed_error(refs: RefCache, ref: str) -> None:
    with pytest.raises(InvalidNameError, match="is not valid"):
        refs.resolve(ref)


def test_a_ref_is_looked_up_once_until_something_changes(
    refs: RefCache, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    resolve = store.resolve
    monkeypatch.setattr(store, "resolve", lambda ref, **known: looked_up.append(ref) or resolve(ref, **known))
    for _ in range(2):
        assert refs.resolve("flowers@prod").number == 2
        time.sleep(store_watch.VALID_S + 0.01)
    assert looked_up == ["flowers@prod"]
    store.set_alias("flowers", "prod", 1)
    until(lambda: names(refs, "flowers@prod") == 1)
    assert looked_up.count("flowers@prod") == 2


def test_an_alias_that_was_moved_while_nobody_asked_is_right_at_once(refs: RefCache, store: Store) -> None:
    assert refs.resolve("flowers@prod").number == 2
    store.set_alias("flowers", "prod", 1)
    time.sleep(store_watch.VALID_S + 0.01)
    assert refs.resolve("flowers@prod").number == 1
    assert refs.cached("flowers@prod") is not None


def test_a_removed_task_is_forgotten(refs: RefCache, store: Store) -> None:
    refs.resolve("flowers")
    store.remove_alias("flowers", "prod")
    store.remove("flowers", all_versions=True)
    until(lambda: names(refs, "flowers") == "TaskNotFoundError")


def test_while_the_store_is_away_known_refs_are_answered_at_once_and_others_get_its_error(
    refs: RefCache, watch: StoreWatch, store: Store
) -> None:
    assert refs.resolve("flowers").number == 2
    away = store.root.with_name("away")
    shutil.move(store.root, away)
    until(lambda: refs.resolve("flowers").number == 2 and watch.problem is not None)
    start = time.monotonic()
    assert refs.resolve("flowers").number == 2
    assert names(refs, "flowers@prod") == "StorageError"
    assert time.monotonic() - start < 0.5
    assert not store.root.exists()  # nothing was written where it was
    shutil.move(away, store.root)
    store.set_alias("flowers", "latest", 1)
    until(lambda: names(refs, "flowers") == 1 and names(refs, "flowers@prod") == 2)
    assert watch.problem is None


def test_what_was_known_is_answered_for_a_bounded_time(refs: RefCache, watch: StoreWatch, store: Store) -> None:
    watch._stale_s = 0.5
    refs.resolve("flowers")
    shutil.move(store.root, store.root.with_name("away"))
    until(lambda: names(refs, "flowers") == "StorageError")
    assert watch.age_s > 0.5


@pytest.fixture
def going_on(refs: RefCache, store: Store, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A catalogue that stands still until the event is set, and `flowers`, which was known before."""
    refs.resolve("flowers")
    event, last_change = threading.Event(), store.last_change
    monkeypatch.setattr(store, "last_change", lambda: event.wait(30) and last_change())
    time.sleep(store_watch.VALID_S + 0.01)
    return event


def test_a_catalogue_that_stands_still_costs_a_request_a_tenth_of_a_second_once(
    refs: RefCache, watch: StoreWatch, going_on: threading.Event
) -> None:
    took = []
    for _ in range(3):
        start = time.monotonic()
        assert refs.resolve("flowers").number == 2
        took.append(time.monotonic() - start)
    assert took[0] >= store_watch.WAIT_S > max(took[1:])
    going_on.set()
    until(lambda: watch.problem is None)


def test_an_unknown_ref_is_found_while_the_catalogue_is_late_and_not_once_it_is_silent(
    refs: RefCache, watch: StoreWatch, going_on: threading.Event
) -> None:
    assert refs.resolve("flowers").number == 2
    assert watch.problem is not None
    assert refs.resolve("flowers@prod").number == 2
    until(lambda: watch.age_s > ref_cache.SILENT_S)
    assert names(refs, "flowers:1") == "StorageError"
    going_on.set()
    until(lambda: watch.problem is None)


def test_a_rebuilt_catalogue_is_followed(refs: RefCache, store: Store) -> None:
    assert refs.resolve("flowers@prod").number == 2
    broken = store.root.with_name("broken")
    broken.mkdir()
    for file in store.root.glob("catalogue.sqlite*"):
        file.rename(broken / file.name)
    until(lambda: names(refs, "flowers:1") == "StorageError")
    rebuild(store.root)
    with Store.open(store.root) as other:
        other.set_alias("flowers", "prod", 1)
    until(lambda: names(refs, "flowers@prod") == 1)
    store.set_alias("flowers", "prod", 2)
    until(lambda: names(refs, "flowers@prod") == 2)


def test_only_so_many_refs_are_remembered(refs: RefCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ref_cache, "MOST_REFS", 2)
    for ref in ("flowers:1", "flowers:2", "flowers"):
        refs.resolve(ref)
    assert refs.cached("flowers:1") is None
    assert refs.cached("flowers") is not None
