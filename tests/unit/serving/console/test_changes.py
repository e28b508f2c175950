from __future__ import annotations

import pytest
from support.console_visitor import text_of

from store.registry.store import Store

PROMOTE = "/change/promote?task=acme/cars&alias=prod&version="


def test_a_promotion_is_shown_and_then_made(changer, own_store: Store):
    promoter = changer("promoter")
    text = text_of(promoter.page(f"{PROMOTE}1"))
    assert "prod version 2 → version 1" in text
    assert "Given: The cut may cost 1 points; its cost is 0.00" in text
    assert own_store.aliases("acme/cars")["prod"] == 2
    assert promoter.confirm(f"{PROMOTE}1").headers["location"] == "/console/tasks/acme/cars?done=promote"
    assert own_store.aliases("acme/cars")["prod"] == 1
    assert "The alias was moved." in promoter.page("/tasks/acme/cars?done=promote")


def test_a_promotion_that_the_rule_refuses_is_explained_and_not_made(changer, own_store: Store):
    promoter = changer("promoter")
    page = promoter.page(f"{PROMOTE}3")
    assert "Missing: The cut may cost 1 points; its cost is 3.20" in text_of(page)
    assert 'method="post" action="/console/change' not in page
    forced = promoter.post("/change/promote", task="acme/cars", alias="prod", version="3", token=promoter.token())
    assert forced.status_code == 409
    assert "costs 3.2 points" in text_of(forced.text)
    assert own_store.aliases("acme/cars")["prod"] == 2


def test_a_rollback_is_shown_and_then_made(changer, own_store: Store):
    promoter = changer("promoter")
    path = "/change/rollback?task=acme/cars&alias=prod"
    assert "prod version 2 → version 1" in text_of(promoter.page(path))
    promoter.confirm(path)
    assert own_store.aliases("acme/cars")["prod"] == 1
    assert "nothing to go back to" in promoter.page(path)


def test_a_protected_alias_is_moved_by_an_admin_on_purpose_alone(changer, own_store: Store):
    own_store.set_alias("acme/cars", "frozen", 1, force=True)
    path = "/change/promote?task=acme/cars&alias=frozen&version=2"
    text = text_of(changer("promoter").page(path))
    assert "Missing: frozen is protected Someone with the scope admin may move it all the same." in text
    admin = changer("admin")
    assert "Move it all the same…" in admin.page(path)
    admin.confirm(f"{path}&force=1")
    assert own_store.aliases("acme/cars")["frozen"] == 2
    promoter = changer("promoter")
    answer = promoter.post(
        "/change/promote", task="acme/cars", alias="frozen", version="1", force="1", token=promoter.token()
    )
    assert answer.status_code == 403
    assert own_store.aliases("acme/cars")["frozen"] == 2


def test_a_tag_is_set_and_removed(changer, own_store: Store):
    promoter = changer("promoter")
    promoter.confirm("/change/tag?task=acme/cars&key=owner&value=Anna %26 Bo")
    assert own_store.tags("acme/cars")["owner"] == "Anna & Bo"
    promoter.confirm("/change/tag?task=acme/cars&key=owner&value=")
    assert "owner" not in own_store.tags("acme/cars")


def test_a_version_is_removed_and_restored(changer, own_store: Store):
    promoter = changer("promoter")
    assert "has aliases beta, prod" in promoter.page("/change/remove?task=acme/cars&version=2")
    assert "acme/cars:1" in promoter.page("/change/remove?task=acme/cars&version=1")
    promoter.confirm("/change/remove?task=acme/cars&version=1")
    assert [row.version for row in own_store.list_versions("acme/cars")] == [2, 3]
    promoter.confirm("/change/restore?task=acme/cars&version=1")
    assert [row.version for row in own_store.list_versions("acme/cars")] == [1, 2, 3]
    assert "nothing to restore" in promoter.page("/change/restore?task=acme/cars")


def test_a_task_is_removed_by_an_admin_alone_and_its_page_offers_to_restore_it(changer, own_store: Store):
    path = "/change/remove?task=acme/plain"
    assert "needs the scope admin; your key has read, publish, promote" in changer("promoter").page(path)
    admin = changer("admin")
    admin.confirm(path)
    assert "Every version is removed" in admin.page("/tasks/acme/plain")
    admin.confirm("/change/restore?task=acme/plain")
    assert own_store.aliases("acme/plain") == {"latest": 1}


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("promote", {"alias": "prod", "version": "1"}),
        ("rollback", {"alias": "prod"}),
        ("tag", {"key": "team", "value": "x"}),
        ("remove", {"version": "1"}),
        ("remove", {}),
        ("restore", {}),
    ],
)
def test_a_key_that_may_only_read_changes_nothing(changer, own_store: Store, action, fields):
    reader = changer("reader")
    before = own_store.last_change()
    query = "&".join(f"{name}={value}" for name, value in {"task": "acme/cars", **fields}.items())
    assert "would be refused" in reader.page(f"/change/{action}?{query}")
    answer = reader.post(f"/change/{action}", task="acme/cars", token=reader.token(), **fields)
    assert answer.status_code == 403
    assert own_store.last_change() == before


@pytest.mark.parametrize("token", ["", "0" * 64, None])
def test_a_form_without_the_sessions_token_changes_nothing(changer, own_store: Store, token):
    promoter = changer("promoter")
    token = changer("promoter").token() if token is None else token  # of another session of the same key
    answer = promoter.post("/change/rollback", task="acme/cars", alias="prod", token=token)
    assert answer.status_code == 403
    assert "not from a page of this session" in answer.text
    assert own_store.aliases("acme/cars")["prod"] == 2


def test_a_form_from_another_site_changes_nothing_though_it_has_the_token(changer, own_store: Store):
    promoter = changer("promoter")
    fields = {"task": "acme/cars", "alias": "prod", "token": promoter.token()}
    answer = promoter.client.post("/console/change/rollback", data=fields, headers={"sec-fetch-site": "same-site"})
    assert answer.status_code == 403
    assert own_store.aliases("acme/cars")["prod"] == 2


def test_a_change_is_in_the_history_under_its_key(built, changer):
    promoter = changer("promoter")
    promoter.confirm("/change/rollback?task=acme/cars&alias=prod")
    assert f"key {built.secrets['promoter'].split('_')[1]}" in promoter.page("/tasks/acme/cars")
