from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.accounting.usage import TaskUse, read_statistics, usage_of_log, usage_of_statistics
from store.errors import FormatError, NotFoundError

HUNDRED = [{"task": f"t{number}", "answers": 1, "last_at": "20260309"} for number in range(100)]


def statistics(**changes: Any) -> dict[str, Any]:
    whole = {
        "format": 1,
        "at": "2026-03-10T00:00:00.000Z",
        "tenant": None,
        "replicas": [
            {"started_at": "2026-03-01T00:00:00.000Z", "cpu_s": 7200.5},
            {"started_at": "2026-03-03T00:00:00.000Z", "cpu_s": 0.25},
        ],
        "replicas_missing": 0,
        "tenants": [{"tenant": "acme", "block_seconds": 3600.1}, {"tenant": "(anyone)", "block_seconds": 0.2}],
        "tasks": [{"task": "acme/cars", "answers": 7, "last_at": "2026-03-09T12:00:00.000Z"}],
        "tasks_left_out": 0,
    }
    return {name: value for name, value in (whole | changes).items() if value != "left out"}


def line(**changes: Any) -> dict[str, Any]:
    return {
        "time": "2026-03-01T10:00:00.000Z", "request_id": "r", "status": 200, "ms": 3.0, "method": "POST",
        "path": "/v1/predict/cars", "tenant": "acme", "task": "cars", "version": 1, "images": 1, "block_seconds": 0.5,
        **changes,
    }  # fmt: skip


def test_statistics_are_known_from_where_the_last_replica_started() -> None:
    usage = usage_of_statistics(statistics(), "here")
    assert (usage.since, usage.until) == ("2026-03-03T00:00:00.000+00:00", "2026-03-10T00:00:00.000+00:00")
    assert usage.tasks == {"acme/cars": TaskUse(7, "2026-03-09T12:00:00.000+00:00")}
    assert usage.block_seconds == {"acme": Decimal("3600.1"), "(anyone)": Decimal("0.2")}
    assert (usage.cpu_seconds, usage.is_complete) == (Decimal("7200.75"), True)


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas_missing": 1},
        {"tasks_left_out": 3},
        {"tasks": [{"task": "(other)", "answers": 1, "last_at": "20260309"}]},
        {"tasks_left_out": "left out", "tasks": HUNDRED},
    ],
)
def test_statistics_that_leave_tasks_out_are_not_complete(changes: dict[str, Any]) -> None:
    assert not usage_of_statistics(statistics(**changes), "here").is_complete


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tenant": "acme"}, "here is of tenant acme alone: save what `GET /v1/statistics"),
        ({"format": 2}, "here has no statistics of a server"),
        ({"replicas": []}, "here has no statistics"),
        ({"replicas": "left out"}, "here has no statistics"),
        ({"at": "soon"}, "here has no statistics"),
        ({"tasks": [{"task": "a", "answers": -1, "last_at": "2026-03-09"}]}, "here has no statistics"),
        ({"tenants": [{"tenant": "a", "block_seconds": float("nan")}]}, "here has no statistics"),
        ({"tenants": [{"tenant": "a", "block_seconds": True}]}, "here has no statistics"),
    ],
)
def test_what_is_not_statistics_of_all_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(FormatError, match=told):
        usage_of_statistics(statistics(**changes), "here")


VALUES = st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))


@given(VALUES)
def test_any_other_json_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        usage_of_statistics(value, "here")
    with pytest.raises(FormatError):
        usage_of_log([value], "here")


def test_a_file_of_statistics_is_read_within_its_bound(tmp_path: Path) -> None:
    (tmp_path / "statistics.json").write_text(json.dumps(statistics()))
    assert read_statistics(tmp_path / "statistics.json") == usage_of_statistics(
        statistics(), str(tmp_path / "statistics.json")
    )
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(FormatError, match=r"page\.html has no statistics"):
        read_statistics(tmp_path / "page.html")
    with pytest.raises(NotFoundError, match=r"none\.json cannot be read"):
        read_statistics(tmp_path / "none.json")


def test_a_log_counts_what_was_asked_also_where_it_failed_and_the_time_that_failures_took() -> None:
    usage = usage_of_log(
        [
            line(),
            line(time="2026-03-02T00:00:00.000Z", images=3, block_seconds=1.25, tenant="garden"),
            line(time="2026-03-03T00:00:00.000Z", status=503, task="roses", block_seconds=0.25),
            line(time="2026-02-01T00:00:00.000Z", answers=[{"task": "a"}, {"task": "b"}]),
            {"time": "2026-03-04T00:00:00.000Z", "status": 200, "tenant": "acme", "task": "seen", "version": 1},
            None, 7, "text", {"time": "2027-01-01T00:00:00.000Z"}, line(time="soon"), line(images="x"),
        ],
        "log",
    )  # fmt: skip
    assert (usage.since, usage.until) == ("2026-02-01T00:00:00.000+00:00", "2026-03-04T00:00:00.000+00:00")
    assert {task: use.answers for task, use in usage.tasks.items()} == {"a": 1, "b": 1, "cars": 4, "roses": 0}
    assert usage.tasks["cars"].last_at == "2026-03-02T00:00:00.000+00:00"
    assert usage.block_seconds == {"acme": Decimal("1.25"), "garden": Decimal("1.25")}
    assert (usage.passed_over, usage.is_complete, usage.cpu_seconds) == (6, True, None)


def test_a_log_without_a_request_is_refused() -> None:
    with pytest.raises(FormatError, match="log has no line that a server wrote"):
        usage_of_log([None, {}], "log")
