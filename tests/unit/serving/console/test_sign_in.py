from __future__ import annotations

import time

import pytest
from support.console_visitor import Visitor, make_application, text_of

from store.errors import StorageError
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
    hidden = secret.split("_", 2)[2]
    assert hidden not in cookie
    assert hidden not in visitor.page("/tasks")
    behind_tls = visitor.client.post("/console/sign-in", data={"key": secret}, headers={"x-forwarded-proto": "https"})
    assert "Secure" in behind_tls.headers["set-cookie"]


def test_a_revoked_key_ends_its_sessions_at_once(built, changer, own_store: Store):
    visitor = changer("reader")
    visitor.page("/tasks")
    own_store.revoke_key(built.secrets["reader"].split("_")[1])
    sent = visitor.get("/tasks")
    assert (sent.status_code, sent.headers["location"]) == (303, "/console/sign-in?next=%2Ftasks&ended=1")
    assert visitor.post("/sign-in", key=built.secrets["reader"]).status_code == 401


def test_a_session_that_was_ended_at_one_replica_is_over_at_all_though_its_cookie_is_kept(built, own_store):
    with Store.open(own_store.root) as other_store:
        one, other = (make_application(store, secret="5" * 64) for store in (own_store, other_store))
        reader, copy, again = (Visitor(one, built.secrets["reader"]), Visitor(other), Visitor(other))
        token, kept = reader.token(), dict(reader.client.cookies)
        copy.client.cookies.update(kept)
        copy.page("/tasks")
        again.client.cookies.update(Visitor(one, built.secrets["reader"]).client.cookies)
        assert reader.post("/sign-out", token=token).headers["location"] == "/console/sign-in"
        reader.client.cookies.update(kept)
        assert [visitor.get("/tasks").status_code for visitor in (reader, copy)] == [303, 303]
        again.page("/tasks")  # another session of the same key goes on
    with Store.open(own_store.root) as started_again:
        later = Visitor(make_application(started_again, secret="5" * 64))
        later.client.cookies.update(kept)
        assert later.get("/tasks").status_code == 303
        assert started_again.leases() == []


def test_sessions_that_would_have_expired_are_forgotten(own_store):
    own_store.catalogue.end_session("old", expires_at=time.time() - 1)
    assert own_store.session_has_ended("old")
    own_store.catalogue.end_session("new", expires_at=time.time() + 60)
    own_store.catalogue.end_session("new", expires_at=time.time() + 60)
    assert not own_store.session_has_ended("old")
    assert own_store.session_has_ended("new")


def test_a_sign_out_that_cannot_be_remembered_says_so_and_ends_nothing(visitor, shared_store, monkeypatch):
    reader = visitor("reader")
    token = reader.token()

    def fail(*_: object, **__: object) -> None:
        raise StorageError("the catalogue does not answer: try again later")

    monkeypatch.setattr(shared_store.catalogue, "end_session", fail)
    assert reader.post("/sign-out", token=token).status_code == 503
    reader.page("/tasks")


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
