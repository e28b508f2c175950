"""What the history promises: who moved what, when, and where aliases pointed at any time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.toy_backbone import publish, relabel

from store.errors import (
    InvalidSettingError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from store.maintenance.garbage import collect_garbage
from store.registry.store import Store, Version


def test_the_history_tells_who_moved_what_when_and_from_where(anywhere: Store, folder: Path) -> None:
    start = datetime.now(UTC) - timedelta(milliseconds=1)
    publish(anywhere, folder)
    publish(anywhere, relabel(folder, "a", "b", "c"))
    anywhere.with_actor("bob@host").set_alias("flowers", "latest", 1)
    anywhere.rollback("flowers")
    moves = [event for event in anywhere.history("flowers") if event.alias == "latest"]
    assert [(event.actor, (event.details or {})["from"], event.version) for event in moves] == [
        ("ann@host", None, 1),
        ("ann@host", 1, 2),
        ("bob@host", 2, 1),
        ("ann@host", 1, 2),
    ]
    assert [(event.details or {}).get("rollback", False) for event in moves] == [False, False, False, True]
    assert all(start <= datetime.fromisoformat(event.at) <= datetime.now(UTC) for event in moves)


def test_a_tasks_history_is_not_that_of_a_backbone_of_the_same_name(store: Store, folder: Path) -> None:
    with pytest.raises(TaskNotFoundError):
        store.history("toy/vit")
    publish(store, folder, "toy/vit")
    assert [event.action for event in store.history("toy/vit")] == ["publish", "alias"]


def test_an_alias_is_known_at_any_time_also_where_its_version_is_gone(
    store: Store, release: Callable[..., Version]
) -> None:
    first, _ = release(aliases=("prod",)), time.sleep(0.005)
    then, _ = datetime.now(UTC).isoformat(), time.sleep(0.005)
    second = release(aliases=("prod",))
    assert store.resolve("flowers@prod", at=then).digest == first.digest
    assert store.resolve("flowers@prod", at=datetime.now(UTC).isoformat()).digest == second.digest
    assert store.resolve("flowers:2", at=then).digest == second.digest
    store.remove("flowers:1")
    assert store.resolve("flowers@prod", at=then).removed_at is not None
    collect_garbage(store, grace_s=0)
    with pytest.raises(
        VersionNotFoundError, match=rf"pointed at flowers:1 \(sha256:{first.digest}\) at .* removed and freed"
    ):
        store.resolve("flowers@prod", at=then)
    with pytest.raises(VersionNotFoundError, match="flowers@prod pointed at no version at 2020-01-01"):
        store.resolve("flowers@prod", at="2020-01-01")


@pytest.mark.parametrize("at", ["yesterday", "2026-13-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_is_none_is_refused(store: Store, release: Callable[..., Version], at: str) -> None:
    release()
    with pytest.raises(InvalidSettingError, match="is not ISO 8601"):
        store.resolve("flowers", at=at)
