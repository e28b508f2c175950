"""A pool does jobs and says what becomes known of each; here in this process, in tests/system over Ray."""

from __future__ import annotations

import os

from serving.cluster.task_plan import DONE, FAILED, PROGRESS, Event, TaskPlan
from serving.cluster.task_pool import task_pool

HERE = TaskPlan("support.jobs:make", {"base": 10}, workers=0)


def test_jobs_report_and_end_and_one_that_fails_stops_no_other():
    with task_pool(HERE) as pool:
        pool.submit(7, {"steps": 2})
        pool.submit(8, {"steps": 1, "wrong": "data"})
        pool.submit(9, {"steps": 0, "wrong": "else"})
        seen = []
        for event in pool.events():
            seen.append(event)
            if event.kind == DONE and event.job == 7:
                pool.submit(5, {"steps": 0})
    done = {"sum": 12, "process": os.getpid()}
    assert seen[:3] == [Event(7, PROGRESS, {"step": 0}), Event(7, PROGRESS, {"step": 1}), Event(7, DONE, done)]
    failures = {event.job: event.value for event in seen if event.kind == FAILED}
    assert failures == {
        8: {"error": "DataError", "message": "no data here", "notes": ["a note"]},
        9: {"error": "KeyError", "message": "KeyError: 'x'", "notes": []},
    }
    assert [event.value["sum"] for event in seen if event.job == 5] == [10]


def test_a_plan_is_the_same_after_its_way_through_json():
    plan = TaskPlan("a:b", {"x": [1, None]}, 3, threads=2, actors=True, ray_address="10.0.0.1:6379")
    assert TaskPlan.from_json(plan.to_json()) == plan
