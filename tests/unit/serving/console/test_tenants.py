"""Tenant against tenant: nothing of another one in any page, count, or word of an error."""

from __future__ import annotations

import re

import pytest
from support.console_visitor import text_of

OTHERS = ("acme/cars", "digits")  # of another tenant, and of none
PAGES = ("/", "/tasks", "/tasks?tenant=acme", "/tasks?q=a", "/tasks?tag=team%3Dvision", "/storage", "/servers", "/try")


@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_anything_of_another_tenant(visitor, path):
    page = visitor("rival").page(path)
    assert re.findall(r"acme/|digits|birds|taxi", page.replace('value="acme"', "")) == []


def test_counts_are_of_the_tenants_own_tasks(visitor):
    rival = visitor("rival")
    assert "1 tasks run block 1" in text_of(rival.page("/"))
    assert "Your tasks 1" in text_of(rival.page("/storage"))
    assert '<p class="count" role="status">1 task<' in rival.page("/tasks")


def without_ids(page: str) -> str:
    return re.sub(r"[0-9a-f]{24}", "ID", page)


@pytest.mark.parametrize(
    "path",
    [
        "/tasks/{}",
        "/compare?task={}",
        "/sharing?refs={}:1",
        "/change/promote?task={}&alias=prod&version=1",
        "/change/rollback?task={}&alias=prod",
        "/change/remove?task={}&version=1",
        "/change/restore?task={}",
        "/change/tag?task={}&key=a&value=b",
    ],
)
def test_a_task_of_another_tenant_is_answered_like_one_that_is_nowhere(visitor, path):
    rival = visitor("rival")
    answers = [rival.get(path.format(task)) for task in (*OTHERS, "acme/none", "none")]
    assert {answer.status_code for answer in answers} == {404}
    pages = [
        without_ids(answer.text).replace(task, "TASK")
        for answer, task in zip(answers, (*OTHERS, "acme/none", "none"), strict=True)
    ]
    assert len(set(pages)) == 1


def test_another_tenants_task_cannot_be_changed(changer, own_store):
    rival = changer("rival")
    before = own_store.last_change()
    for action in ("promote", "rollback", "tag", "remove", "restore"):
        fields = {"task": "acme/cars", "alias": "prod", "version": "1", "key": "a", "value": "b"}
        assert rival.post(f"/change/{action}", token=rival.token(), **fields).status_code == 404
    assert own_store.last_change() == before


def test_the_whole_stores_report_is_not_made_for_a_tenant(visitor):
    assert visitor("rival").get("/storage/data?name=task-bytes").status_code == 404
    assert "/storage/data" not in visitor("rival").page("/storage")
