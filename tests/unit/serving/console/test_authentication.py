"""Who may open which page of the console, and who may change what: generated from its table of routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
from httpx import Response
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from support.console_store import ConsoleStore
from support.console_visitor import Visitor, make_application

from serving.console.changes_page import CHANGES
from serving.http.browser_sessions import COOKIE
from store.registry.api_keys import new_key
from store.registry.store import Store

OPEN = {("GET", "/sign-in"), ("POST", "/sign-in"), ("GET", "/static/{name}")}
NEEDS = {"promote": "promote", "rollback": "promote", "tag": "publish", "remove": "publish", "restore": "publish"}
VALUES = {"task:path": "acme/cars", "name": "console.css"}
FIELDS = {"task": "acme/cars", "alias": "canary", "version": "1", "key": "team", "value": "x", "left": "acme/cars:1",
          "right": "acme/cars:2", "ref": "acme/cars"}  # fmt: skip
STRANGERS = ("nobody", "forged", "revoked")


def paths(application: Starlette) -> Iterator[tuple[str, str]]:
    """Yield each method and path of the console, those with an action once for each of them."""
    (mount,) = (route for route in application.routes if isinstance(route, Mount))
    for route in mount.routes:
        assert isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            for action in CHANGES if "{action}" in route.path else ("",):
                yield method, route.path.replace("{action}", action)


def ask(visitor: Visitor, method: str, path: str, *, token: str = "") -> Response:
    for name, value in VALUES.items():
        path = path.replace(f"{{{name}}}", value)
    if method == "POST":
        return visitor.post(path, token=token, **FIELDS)
    return visitor.client.get(f"/console{path}", params=FIELDS)


@pytest.fixture
def stranger(built: ConsoleStore, own_store: Store) -> Callable[[str], Visitor]:
    """Someone with no session, with a cookie that nobody signed, or with the session of a key that was revoked."""
    application = make_application(own_store)

    def of(kind: str) -> Visitor:
        visitor = Visitor(application, built.secrets["admin"] if kind == "revoked" else None)
        if kind == "revoked":
            own_store.revoke_key(built.secrets["admin"].split("_")[1])
        if kind == "forged":
            forged = f"{built.secrets['admin'].split('_')[1]}.9999999999.{'0' * 32}.{'0' * 64}"
            visitor.client.cookies.set(COOKIE, forged)
        return visitor

    return of


@pytest.mark.parametrize("kind", STRANGERS)
def test_every_page_and_change_but_the_form_to_sign_in_sends_a_stranger_there(stranger, kind, own_store):
    visitor, before = stranger(kind), own_store.history("acme/cars")
    found = list(paths(visitor.client.app))
    assert len(found) >= 20
    for method, path in found:
        answer = ask(visitor, method, path)
        if (method, path) in OPEN:
            assert answer.status_code in (200, 401), (method, path)
        else:
            assert answer.status_code == 303, (method, path, answer.text)
            assert answer.headers["location"].startswith("/console/sign-in"), (method, path)
    assert own_store.history("acme/cars") == before


@pytest.mark.parametrize("scope", ["publish", "promote"])
def test_a_key_that_may_not_read_is_shown_no_task(own_store, scope):
    key, secret = new_key("acme", (scope,))
    own_store.put_key(key)
    visitor = Visitor(make_application(own_store), secret)
    for method, path in paths(visitor.client.app):
        if method == "GET" and (method, path) not in OPEN:
            answer = ask(visitor, method, path)
            assert answer.status_code in (303, 403) or b"acme/cars" not in answer.content, (path, answer.text)


def test_another_tenants_key_opens_no_page_of_a_task_and_changes_none(changer, own_store):
    rival, before = changer("rival"), own_store.history("acme/cars")
    token = rival.token()
    for method, path in paths(rival.client.app):
        if path.startswith(("/tasks/", "/change/")):
            assert ask(rival, method, path, token=token).status_code == 404, (method, path)
    assert own_store.history("acme/cars") == before


@pytest.mark.parametrize("scopes", [("read",), ("read", "publish"), ("read", "promote")], ids="+".join)
def test_a_change_needs_its_scope_and_no_other_is_enough(own_store, scopes):
    assert NEEDS.keys() == CHANGES.keys()
    key, secret = new_key("acme", scopes)
    own_store.put_key(key)
    visitor = Visitor(make_application(own_store), secret)
    token, before = visitor.token(), own_store.history("acme/cars")
    for action, scope in NEEDS.items():
        if scope not in scopes:
            assert ask(visitor, "POST", f"/change/{action}", token=token).status_code == 403, action
    assert own_store.history("acme/cars") == before


def test_a_change_without_the_pages_token_is_refused_whoever_asks(changer, own_store):
    admin, before = changer("admin"), own_store.history("acme/cars")
    posts: Mapping[str, int] = {
        path: ask(admin, method, path).status_code
        for method, path in paths(admin.client.app)
        if method == "POST" and (method, path) not in OPEN
    }
    assert set(posts.values()) == {403}
    assert len(posts) == len(CHANGES) + 1
    assert own_store.history("acme/cars") == before
