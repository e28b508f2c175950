from __future__ import annotations

from pathlib import Path

from support.toy_backbone import publish, relabel

from store.accounting.report import account_of
from store.accounting.since import published_since
from store.registry.store import Store


def test_what_is_new_is_counted_with_the_bytes_that_nothing_older_needs(teams: Store, folder: Path) -> None:
    before = account_of(teams).report
    new = publish(teams, relabel(folder, "new", "b", "c"), "acme/cars")
    account = account_of(teams)
    found = published_since(account, new.published_at)
    newer = [row for row in account.report.versions if row.published_at >= new.published_at]
    assert found.versions == len(newer)
    (task,) = (row for row in found.by_task if row.task == "acme/cars")
    assert task.versions == (4,)
    assert task.added_nbytes == account.report.places.live_nbytes - before.places.live_nbytes
    assert published_since(account, "2999-01-01T00:00:00.000+00:00").by_task == ()


def test_blobs_that_two_new_tasks_share_count_once_together_and_for_neither_alone(teams: Store) -> None:
    found = published_since(account_of(teams), "2000-01-01T00:00:00.000+00:00")
    assert (found.versions, found.tasks) == (5, 3)
    assert found.added_nbytes > sum(task.added_nbytes for task in found.by_task)
