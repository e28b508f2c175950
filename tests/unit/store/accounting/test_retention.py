from __future__ import annotations

import pytest

from store.accounting.report import account_of
from store.accounting.retention import Retention, retention
from store.errors import InvalidSettingError
from store.maintenance.garbage import collect_garbage
from store.registry.store import Store


def carry_out(store: Store, found: Retention) -> int:
    """Remove what the rule names, and return what a collection frees."""
    for task in found.tasks:
        for number in task.removed:
            store.remove(f"{task.task}:{number}")
    return collect_garbage(store, grace_s=0).freed_nbytes


def test_what_retention_would_free_is_what_carrying_it_out_frees(teams: Store) -> None:
    found = retention(account_of(teams), keep_last=1)
    assert [(task.task, task.removed) for task in found.tasks] == [("acme/cars", (1, 2))]
    assert (found.versions, found.held) == (2, 0)
    assert carry_out(teams, found) == found.freed_nbytes > 0


def test_an_alias_and_a_lease_keep_versions_that_the_rule_would_not(teams: Store) -> None:
    teams.set_alias("acme/cars", "prod", 1)
    teams.lease([teams.resolve("acme/cars:2").digest], holder="a server", ttl_s=60)
    found = retention(account_of(teams), keep_last=0)
    assert (found.versions, found.freed_nbytes, found.held) == (0, 0, 5)


def test_age_and_count_together_remove_what_both_would(teams: Store) -> None:
    first, second, _ = teams.versions("acme/cars")
    account = account_of(teams)
    assert retention(account, published_before=first.published_at).versions == 0
    assert retention(account, keep_last=2, published_before="2999-01-01T00:00:00.000+00:00").versions == 1
    found = retention(account, keep_last=1, published_before=second.published_at)
    assert found.versions == (1 if first.published_at < second.published_at else 0)


def test_a_rule_is_needed_and_keeps_a_number_of_versions(teams: Store) -> None:
    account = account_of(teams)
    with pytest.raises(InvalidSettingError, match="retention without a rule keeps everything"):
        retention(account)
    with pytest.raises(InvalidSettingError, match="keep_last -1 is not a whole number from 0"):
        retention(account, keep_last=-1)
