"""What removal promises: what it refuses, how it is undone, and the bytes that it frees."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from store.errors import (
    InUseError,
    InvalidNameError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from store.maintenance.garbage import collect_garbage
from store.maintenance.verify import verify
from store.registry.store import Store, Version


def test_what_an_alias_names_is_not_removed_and_the_message_says_which(
    store: Store, release: Callable[..., Version]
) -> None:
    release(aliases=("prod",))
    release()
    with pytest.raises(InUseError, match=r"flowers:1 has alias prod: .*`store.set_alias"):
        store.remove("flowers:1")
    with pytest.raises(InUseError, match="prod"):
        store.remove("flowers", all_versions=True)
    with pytest.raises(InvalidNameError, match="`all_versions=True` for all of it"):
        store.remove("flowers")
    assert [version.number for version in store.versions("flowers")] == [1, 2]


def test_what_a_lease_holds_is_not_removed_until_it_ends(store: Store, release: Callable[..., Version]) -> None:
    digest = release().digest
    release()
    lease = store.lease([digest], holder="replica 7", ttl_s=60)
    with pytest.raises(InUseError, match="flowers:1 is in use by replica 7"):
        store.remove("flowers:1")
    store.lease([digest], holder="replica 7", ttl_s=0.02, lease_id=lease)
    time.sleep(0.03)
    assert store.remove("flowers:1").versions == ("flowers:1",)
    with pytest.raises(VersionNotFoundError, match="was removed"):
        store.lease([digest], holder="replica 7", ttl_s=60, lease_id=lease)


def test_a_publish_that_died_holds_its_blobs_and_no_version(store: Store, release: Callable[..., Version]) -> None:
    digest = release().digest
    release()
    store.catalogue.lease("died", [digest], holder="publish", expires_at=time.time() + 60)
    assert store.remove("flowers:1").versions == ("flowers:1",)
    assert digest not in collect_garbage(store, grace_s=0).freed


def test_a_removal_is_undone_until_it_is_collected(store: Store, release: Callable[..., Version]) -> None:
    release()
    release()
    store.set_tag("flowers", "stage", "live", version=1)
    store.remove("flowers:1")
    with pytest.raises(VersionNotFoundError):
        store.resolve("flowers:1")
    assert [row.version for row in store.list_versions("flowers", removed=True)] == [1, 2]
    assert store.restore("flowers", 1) == [1]
    assert store.tags("flowers", 1) == {"stage": "live"}
    store.remove("flowers:1")
    collect_garbage(store, grace_s=0)
    with pytest.raises(
        VersionNotFoundError, match=r"nothing to restore: it was not removed, or `collect_garbage\(store\)` has freed"
    ):
        store.restore("flowers", 1)


def test_a_task_is_removed_as_a_whole_and_comes_back_with_latest(store: Store, release: Callable[..., Version]) -> None:
    release()
    release()
    store.set_alias("flowers", "latest", 1)
    assert store.remove("flowers", all_versions=True).versions == ("flowers:1", "flowers:2")
    with pytest.raises(TaskNotFoundError):
        store.resolve("flowers")
    assert store.search().rows == ()
    assert store.restore("flowers") == [1, 2]
    assert store.resolve("flowers").number == 2


def test_a_number_is_never_given_twice(store: Store, release: Callable[..., Version]) -> None:
    release()
    store.remove("flowers", all_versions=True)
    collect_garbage(store, grace_s=0)
    assert release().number == 2


def test_the_bytes_of_removals_in_a_row_add_up_to_what_a_collection_frees(
    store: Store, release: Callable[..., Version]
) -> None:
    # The first two share all but class names and manifest, and the third keeps what they share alive.
    for _ in range(3):
        release()
    shared = store.resolve("flowers").manifest.adapter.weights
    said = [store.remove(f"flowers:{number}").freed_nbytes for number in (1, 2)]
    said.append(store.remove("flowers", all_versions=True).freed_nbytes)
    assert said[2] > shared.nbytes > max(said[:2])
    assert (
        sum(said)
        == collect_garbage(store, grace_s=0, dry_run=True).freed_nbytes
        == collect_garbage(store, grace_s=0).freed_nbytes
    )


def test_a_dry_removal_says_the_same_and_changes_nothing(store: Store, release: Callable[..., Version]) -> None:
    release()
    release()
    foreseen, events = store.remove("flowers:1", dry_run=True), store.history("flowers")
    assert store.history("flowers") == events
    assert store.remove("flowers:1") == foreseen


def test_a_version_whose_manifest_is_damaged_can_still_be_removed(
    store: Store, release: Callable[..., Version]
) -> None:
    damaged = release()
    release()
    Path(store.blobs.locate(damaged.manifest_blob)).unlink()
    assert store.remove("flowers:1").versions == ("flowers:1",)
    collect_garbage(store, grace_s=0)
    assert verify(store) == []
