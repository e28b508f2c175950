from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.toy_backbone import publish, relabel

from serving.runtime import version_leases
from serving.runtime.version_leases import VersionLeases
from store.errors import InUseError, VersionNotFoundError
from store.registry.store import Store, Version


@pytest.fixture
def two(store: Store, folder: Path) -> tuple[Version, Version]:
    """Two versions of one task; `latest` names the second."""
    first = publish(store, folder)
    return first, publish(store, relabel(folder, "a", "b", "c"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def held(store: Store) -> set[str]:
    return {digest for lease in store.leases() for digest in lease.digests}


def test_what_is_held_is_not_removed_until_it_is_released(store: Store, two: tuple[Version, Version]) -> None:
    leases = VersionLeases(store)
    leases.hold(two[0].digest)
    with pytest.raises(InUseError, match="in use by server"):
        store.remove("flowers:1")
    leases.close()
    assert store.leases() == []
    assert store.remove("flowers:1").versions == ("flowers:1",)


def test_all_that_is_held_becomes_one_lease_which_outlives_its_time_as_long_as_it_is_asked_for(
    store: Store, two: tuple[Version, Version]
) -> None:
    leases = VersionLeases(store, lease_s=0.3)
    for version in two:
        leases.hold(version.digest)
    (first,) = store.leases()
    until(lambda: {lease.id for lease in store.leases()} - {first.id} != set() and len(store.leases()) == 1)
    (lease,) = store.leases()
    until(lambda: time.time() > lease.expires_at + 0.3)
    (renewed,) = store.leases()
    assert (renewed.id, set(renewed.digests)) == (lease.id, {version.digest for version in two})
    leases.close()


def test_a_request_writes_what_is_new_since_the_last_renewal_and_not_all_that_is_held(
    store: Store, two: tuple[Version, Version]
) -> None:
    leases = VersionLeases(store)
    leases.hold(two[0].digest)
    leases._renew()
    leases.hold(two[1].digest)
    assert sorted(lease.digests for lease in store.leases()) == sorted((version.digest,) for version in two)
    leases._renew()
    (lease,) = store.leases()
    assert set(lease.digests) == {version.digest for version in two}
    leases.close()
    assert store.leases() == []


def test_what_nobody_asks_for_any_more_is_released_and_held_again_when_asked_for(
    store: Store, two: tuple[Version, Version]
) -> None:
    leases = VersionLeases(store, lease_s=0.3, keep_s=0.3)
    leases.hold(two[0].digest)
    until(lambda: store.leases() == [])
    leases.hold(two[0].digest)
    assert held(store) == {two[0].digest}
    leases.close()


def test_a_version_that_is_gone_is_refused_and_those_still_there_stay_held(
    store: Store, two: tuple[Version, Version]
) -> None:
    store.remove("flowers:1")
    leases = VersionLeases(store)
    leases.hold(two[1].digest)
    with pytest.raises(VersionNotFoundError, match="was removed"):
        leases.hold(two[0].digest)
    leases.hold(two[1].digest)
    assert held(store) == {two[1].digest}
    leases.close()


def test_where_a_lease_cannot_be_written_answers_go_on_and_the_log_says_so(
    store: Store, two: tuple[Version, Version], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(store.root / "catalogue.sqlite")) as other:
        other.execute("DROP TABLE holds")
    leases = VersionLeases(store)
    leases.hold(two[0].digest)
    leases.hold(two[0].digest)
    assert {record.message[:21] for record in caplog.records} == {"no lease on 1 version"}
    assert leases.missing == 1
    leases.close()


def test_a_server_that_slept_past_its_lease_goes_on_with_what_is_still_there(
    store: Store, two: tuple[Version, Version], folder: Path
) -> None:
    leases = VersionLeases(store)
    for version in two:
        leases.hold(version.digest)
    store.release(store.leases()[0].id)
    store.remove("flowers:1")
    third = publish(store, relabel(folder, "x", "y", "z"))
    for version in (third, two[1], third):
        leases.hold(version.digest)
    assert held(store) == {third.digest, two[1].digest}
    with pytest.raises(VersionNotFoundError):
        leases.hold(two[0].digest)
    leases.close()


def test_a_version_that_is_in_use_is_held_soon_and_nobody_waits_for_it(
    store: Store, two: tuple[Version, Version]
) -> None:
    leases = VersionLeases(store)
    with store.catalogue.database.write():  # another writer
        start = time.monotonic()
        leases.use(two[0].digest)
        assert time.monotonic() - start < 0.1
        assert leases.missing == 1
    until(lambda: held(store) == {two[0].digest})
    assert leases.missing == 0
    leases.close()


def test_a_load_waits_for_its_lease_no_longer_than_its_time_and_the_lease_comes_later(
    store: Store, two: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_leases, "WAIT_S", 0.05)
    leases = VersionLeases(store)
    with store.catalogue.database.write():
        start = time.monotonic()
        leases.hold(two[0].digest)
        assert 0.05 <= time.monotonic() - start < 5
        again = time.monotonic()
        leases.hold(two[1].digest)  # the catalogue is known to take none: no second wait
        assert time.monotonic() - again < 0.05
    until(lambda: held(store) == {version.digest for version in two})
    leases.close()


def test_a_stepped_clock_is_noticed_and_the_lease_written_anew(
    store: Store, two: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_leases, "LOOK_S", 0.05)
    leases = VersionLeases(store)
    leases.hold(two[0].digest)
    (before,) = store.leases()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 7200)
    until(lambda: any(lease.expires_at > before.expires_at + 7000 for lease in store.leases()))
    with pytest.raises(InUseError):
        store.remove("flowers:1")
    leases.close()


def test_closing_does_not_wait_for_a_writer_that_stands_still(
    store: Store, two: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_leases, "CLOSE_S", 0.05)
    leases = VersionLeases(store)
    leases.hold(two[0].digest)
    with store.catalogue.database.write():
        start = time.monotonic()
        leases.close()
        assert time.monotonic() - start < 5
    until(lambda: store.leases() == [])
