from __future__ import annotations

import pytest
from support.console_visitor import Visitor, make_application, text_of

from store.registry.store import Store


def test_a_stranger_is_sent_to_sign_in_and_from_there_back(built, shared_store):
    visitor = Visitor(make_application(shared_store))
    sent = visitor.get("/tasks/acme/cars")
    assert (sent.status_code, sent.headers["location"]) == (303, "/console/sign-in?next=%2Ftasks%2Facme%2Fcars")
    back = visitor.post("/sign-in", key=built.secrets["reader"], next="/tasks/acme/cars")
    assert (back.status_code, back.headers["location"]) == (303, "/console/tasks/acme/cars")


@pytest.mark.parametrize(
    "link", ["//evil.test/", "https://evil.test/", "/\\evil.test", "evil", "/a\nb", "/" + "x" * 500]
)
def test_after_sign_in_nobody_is_sent_elsewhere(built, shared_store, link):
    answer = Visitor(make_application(shared_store)).post("/sign-in", key=built.secrets["reader"], next=link)
    assert answer.headers["location"] == "/console/"


@pytest.mark.parametrize("key", ["", "wrong", "ot_" + "0" * 16 + "_" + "A" * 43, "x" * 5000])
def test_a_wrong_key_gets_the_form_again_and_no_session(shared_store, key):
    answer = Visitor(make_application(shared_store)).post("/sign-in", key=key)
    assert answer.status_code == 401
    assert "not valid, or was revoked" in text_of(answer.text)
    assert "set-cookie" not in answer.headers


def test_the_cookie_is_for_the_server_alone_and_does_not_hold_the_secret(built, shared_store):
    secret = built.secrets["reader"]
    visitor = Visitor(make_application(shared_store))
    answer = visitor.post("/sign-in", key=secret)
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=28800"} <= set(cookie.split("; "))
    for part in secret.split("_")[2:]:
        assert part not in cookie
        assert part not in visitor.page("/tasks")
    behind_tls = visitor.client.post("/console/sign-in", data={"key": secret}, headers={"x-forwarded-proto": "https"})
    assert "Secure" in behind_tls.headers["set-cookie"]


def test_a_revoked_key_ends_its_sessions_at_once(built, changer, own_store: Store):
    visitor = changer("reader")
    visitor.page("/tasks")
    own_store.revoke_key(built.secrets["reader"].split("_")[1])
    sent = visitor.get("/tasks")
    assert (sent.status_code, sent.headers["location"]) == (303, "/console/sign-in?next=%2Ftasks&ended=1")
    assert visitor.post("/sign-in", key=built.secrets["reader"]).status_code == 401


def test_a_session_that_was_ended_is_over_though_its_cookie_is_kept(visitor):
    reader = visitor("reader")
    token, kept = reader.token(), dict(reader.client.cookies)
    assert reader.post("/sign-out", token=token).headers["location"] == "/console/sign-in"
    reader.client.cookies.update(kept)
    assert reader.get("/tasks").status_code == 303


def test_signing_out_needs_the_sessions_token(visitor):
    reader = visitor("reader")
    assert reader.post("/sign-out", token="0" * 64).status_code == 403
    reader.page("/tasks")


def test_a_form_from_a_page_of_another_site_signs_nobody_in(built, shared_store):
    visitor = Visitor(make_application(shared_store))
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.test"}, {"origin": "null"}):
        answer = visitor.client.post("/console/sign-in", data={"key": built.secrets["reader"]}, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
