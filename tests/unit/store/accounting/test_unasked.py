from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.accounting.report import Account, account_of
from store.accounting.unasked import unasked
from store.accounting.usage import TaskUse, Usage
from store.errors import InvalidSettingError
from store.maintenance.garbage import collect_garbage
from store.registry.store import Store


def at(account: Account, days: float) -> str:
    """Return the time so many days after the last publish."""
    last = max(row.published_at for row in account.report.versions)
    return (datetime.fromisoformat(last) + timedelta(days=days)).astimezone(UTC).isoformat(timespec="milliseconds")


def usage_of(account: Account, since: float, until: float, asked: dict[str, float], *, complete: bool = True) -> Usage:
    tasks = {task: TaskUse(1, at(account, day)) for task, day in asked.items()}
    return Usage("here", at(account, since), at(account, until), tasks, {}, is_complete=complete)


NAMES = ("acme/cars", "flowers", "garden/roses")
days_asked = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 200))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.integers(-50, 150), days_asked, st.integers(1, 150), st.booleans())
def test_a_task_is_unasked_where_no_request_of_it_is_known_in_the_time(
    teams: Store, since: int, asked: dict[str, int], days: int, complete: bool
) -> None:
    account, until = account_of(teams), 200
    asked = {task: day for task, day in asked.items() if day >= since}
    usage = usage_of(account, since, until, asked, complete=complete)
    found = unasked(account, usage, days=days)
    begin = until - days  # all was published on day 0
    assert found.covers == (since <= begin)
    for name in NAMES:
        expected = asked[name] <= begin if name in asked else complete and max(begin, since) >= 0
        assert (name in [row.task for row in found.tasks]) == expected, (name, begin)
    assert found.unknown == (0 if complete else len(NAMES) - len(asked))
    assert [row.freed_if_deleted_nbytes for row in found.tasks] == sorted(
        (row.freed_if_deleted_nbytes for row in found.tasks), reverse=True
    )


def test_what_removing_all_of_them_would_free_is_what_a_collection_then_frees(teams: Store) -> None:
    account = account_of(teams)
    found = unasked(account, usage_of(account, 1, 100, {"flowers": 99}), days=90)
    assert [row.task for row in found.tasks] == ["acme/cars", "garden/roses"]
    assert found.freed_nbytes > sum(row.freed_if_deleted_nbytes for row in found.tasks)  # they share blobs
    for row in found.tasks:
        teams.remove(row.task, all_versions=True)
    assert collect_garbage(teams, grace_s=0).freed_nbytes == found.freed_nbytes


@pytest.mark.parametrize("days", [0, -1, float("nan"), 1e9])
def test_days_are_bounded(teams: Store, days: float) -> None:
    account = account_of(teams)
    with pytest.raises(InvalidSettingError, match="are not above 0 and at most 36,500"):
        unasked(account, usage_of(account, 0, 1, {}), days=days)
