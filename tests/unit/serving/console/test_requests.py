"""What a stranger may send is bounded, and every answer has the strict headers."""

from __future__ import annotations

import pytest
from support.console_visitor import Visitor, make_application, text_of

from serving.console.rendering import plain

STRICT = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@pytest.mark.parametrize("path", ["/", "/tasks", "/tasks/none", "/nowhere", "/sign-in", "/change/none?task=digits"])
def test_every_answer_has_strict_headers_and_an_id(visitor, shared_store, path):
    for someone in (visitor("operator"), Visitor(make_application(shared_store))):
        answer = someone.get(path)
        assert STRICT.items() <= dict(answer.headers).items()
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"] in answer.text or answer.status_code == 303


@pytest.mark.parametrize(
    "query",
    [
        "q=" + "x" * 301,
        "q=%00",
        "q=%ff",
        "tag=team",
        "depth=-1",
        "depth=1e3",
        "page=0",
        "page=" + "9" * 30,
        "&".join(f"f{number}=1" for number in range(40)),
        "q=" + "x" * 17_000,
    ],
)
def test_a_query_that_is_not_valid_is_refused_in_a_page(visitor, query):
    answer = visitor("reader").get(f"/tasks?{query}")
    assert answer.status_code == 400
    assert "That cannot be read" in text_of(answer.text)


def test_a_form_that_is_too_large_or_of_another_type_is_refused(shared_store):
    visitor = Visitor(make_application(shared_store))
    assert visitor.post("/sign-in", key="x" * 20_000).status_code == 413
    for kind in ("application/json", "multipart/form-data; boundary=x", "text/plain"):
        answer = visitor.client.post("/console/sign-in", content=b"key=x", headers={"content-type": kind})
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "path", ["/static/..%2fapp.py", "/static/none.js", "/static/htmx.LICENSE", "/templates/base.html"]
)
def test_only_scripts_and_styles_are_files(visitor, path):
    assert visitor("operator").get(path).status_code == 404


def test_scripts_and_styles_need_no_key_and_are_kept(shared_store):
    visitor = Visitor(make_application(shared_store))
    page = visitor.page("/sign-in")
    for name in ("console.css", "console.js", "htmx.min.js", "mark.svg"):
        path = page.partition(f"/console/static/{name}")[2].partition('"')[0]
        answer = visitor.get(f"/static/{name}{path}")
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
        assert "immutable" in answer.headers["cache-control"]


def test_methods_that_no_page_has_are_refused(visitor):
    reader = visitor("reader")
    assert reader.client.post("/console/tasks").status_code == 405
    assert reader.client.delete("/console/tasks/acme/cars").status_code == 405
    assert reader.client.get("/console/sign-out").status_code == 405


def test_a_failure_is_a_page_with_an_id_that_the_log_has(visitor, monkeypatch, caplog):
    def fail(_search: object) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr("serving.console.tasks_page.search_of", fail)
    answer = visitor("reader").get("/tasks")
    assert answer.status_code == 500
    assert "a secret of the server" not in answer.text
    assert answer.headers["x-request-id"] in answer.text
    assert any(answer.headers["x-request-id"] in record.getMessage() for record in caplog.records)


def test_remedies_that_are_calls_in_python_are_left_out_of_pages():
    assert (
        plain("no task 'x' in s3://a: there is b, c; see `store.search()`") == "no task 'x' in s3://a: there is b, c."
    )
    assert plain("depth is not valid: use 1 to 12") == "depth is not valid: use 1 to 12"
