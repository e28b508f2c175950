"""What aliases promise: they follow publishes, move by hand, and roll back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from store.errors import (
    InvalidNameError,
    InvalidSettingError,
    VersionNotFoundError,
)
from store.records.events import AliasRule
from store.registry.store import Store, Version


def test_latest_follows_every_publish_and_may_be_moved_by_hand_until_the_next(
    store: Store, release: Callable[..., Version]
) -> None:
    release()
    release()
    store.set_alias("flowers", "latest", 1)
    assert store.resolve("flowers").number == 1
    release()
    assert store.resolve("flowers").number == 3


def test_latest_is_neither_removed_nor_given_a_rule(store: Store, release: Callable[..., Version]) -> None:
    release()
    with pytest.raises(InvalidNameError, match="move it, or remove the task"):
        store.remove_alias("flowers", "latest")
    with pytest.raises(InvalidSettingError, match="follows every publish"):
        store.set_rule(AliasRule("flowers", "latest", protected=True))


def test_a_second_rollback_goes_back_further(store: Store, release: Callable[..., Version]) -> None:
    for _ in range(3):
        release()
    assert [store.rollback("flowers").number, store.rollback("flowers").number] == [2, 1]
    with pytest.raises(VersionNotFoundError, match="no earlier version"):
        store.rollback("flowers")
    release()
    assert store.rollback("flowers").number == 1


def test_a_rollback_steps_over_removed_versions(store: Store, release: Callable[..., Version]) -> None:
    for _ in range(3):
        release()
    store.remove("flowers:2")
    assert store.rollback("flowers").number == 1
