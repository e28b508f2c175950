from __future__ import annotations

import pytest
from support.tenants import as_tenant
from support.toy_backbone import publish, relabel

from store.errors import GateError, NotAllowedError, OnetrunkError, TaskNotFoundError
from store.records.events import AliasRule
from store.registry.alias_preview import preview_alias, preview_rollback


@pytest.fixture
def two_versions(store, folder):
    publish(store, folder, aliases=("prod",))
    publish(store, relabel(folder, "a", "b", "c"), aliases=("prod",))
    return store


def test_a_preview_says_what_the_move_then_does_and_changes_nothing(two_versions):
    store, before = two_versions, two_versions.last_change()
    move, back = preview_alias(store, "flowers", "prod", 1), preview_rollback(store, "flowers", "prod")
    assert (move.current, move.target, move.refusal) == (2, 1, None)
    assert (back.current, back.target, back.refusal) == (2, 1, None)
    assert preview_alias(store, "flowers", "new", 1).current is None
    assert store.last_change() == before
    assert store.rollback("flowers", "prod").number == back.target
    assert preview_rollback(store, "flowers", "prod").target is None


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (AliasRule("flowers", "prod", protected=True), NotAllowedError),
        (AliasRule("flowers", "prod", max_drop=1.0), GateError),
        (AliasRule("flowers", "prod", min_accuracy=0.5), GateError),
    ],
)
def test_a_preview_has_the_error_that_the_move_raises(two_versions, rule, error):
    store = two_versions
    store.set_rule(rule)
    preview = preview_alias(store, "flowers", "prod", 1)
    assert type(preview.refusal) is error
    with pytest.raises(OnetrunkError) as raised:
        store.set_alias("flowers", "prod", 1)
    assert str(raised.value) == str(preview.refusal)
    assert type(preview_rollback(store, "flowers", "prod").refusal) is error
    forced = preview_alias(store, "flowers", "prod", 1, force=True)
    assert (forced.refusal is None) == rule.protected


def test_a_tenant_previews_its_own_tasks_alone(two_versions):
    acme = as_tenant(two_versions, "acme", "read")
    for call in (lambda: acme.preview_alias("flowers", "prod", 1), lambda: acme.preview_rollback("flowers", "prod")):
        with pytest.raises(TaskNotFoundError):
            call()
