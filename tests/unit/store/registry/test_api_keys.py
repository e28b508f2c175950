from __future__ import annotations

import re

import pytest
from support.processes import snapshot
from support.tenants import as_tenant, listening

from store.errors import InvalidNameError, InvalidSettingError, NotAllowedError, NotFoundError, UnknownKeyError
from store.registry.store import Store
from store.registry.tenant_store import authenticate, new_key


def test_a_secret_is_shown_once_and_the_store_keeps_its_digest_alone(store: Store) -> None:
    key, secret = new_key("acme", ("publish", "read"))
    store.put_key(key)
    assert re.fullmatch(r"ot_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", secret)
    kept = authenticate(store, secret)
    assert (kept.tenant, kept.scopes) == ("acme", ("read", "publish"))
    for path, data in snapshot(store.root).items():
        assert secret.split("_", 2)[2].encode() not in (data or b""), path
    assert len({new_key(None, ("read",))[1] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("tenant", "scopes", "error", "remedy"),
    [
        ("acme", ("write",), InvalidSettingError, "one or more of read, publish, promote, admin"),
        ("acme", (), InvalidSettingError, "one or more of"),
        ("acme/cars", ("read",), InvalidNameError, "what stands before it"),
        ("../acme", ("read",), InvalidNameError, "use letters"),
        ("", ("read",), InvalidNameError, "use letters"),
    ],
)
def test_a_key_has_known_scopes_and_a_tenant_that_task_names_can_begin_with(tenant, scopes, error, remedy) -> None:
    with pytest.raises(error, match=remedy):
        new_key(tenant, scopes)


def test_malformed_unknown_wrong_and_revoked_secrets_are_told_the_same_after_the_same_questions(store: Store) -> None:
    (key, secret), (revoked, old) = new_key("acme", ("read",)), new_key("acme", ("read",))
    for made in (key, revoked):
        store.put_key(made)
    store.revoke_key(revoked.id)
    wrong = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    unknown = new_key("acme", ("read",))[1]
    refusals, queries = set(), store.queries
    for sent in (wrong, unknown, old, "", "ot_", f"ot_{key.id}_{43 * 'é'}", "x" * 10_000, f"{secret}\n", "\udcff"):
        statements: dict[str, object] = {}
        store.queries = listening(queries, statements.__setitem__)
        with pytest.raises(UnknownKeyError) as refused:
            authenticate(store, sent)
        refusals.add((str(refused.value), *statements))
    assert len(refusals) == 1
    assert statements
    assert authenticate(store, secret).id == key.id


def test_a_tenants_admin_makes_lists_and_revokes_its_own_keys_alone(store: Store) -> None:
    acme, globex, operator = as_tenant(store, "acme"), as_tenant(store, "globex"), as_tenant(store, None)
    made, secret = acme.create_key("acme", ("read",))
    assert {key.id for key in acme.list_keys()} == {acme.key.id, made.id}
    for tenant in ("globex", None):
        with pytest.raises(NotAllowedError, match="keys of tenant 'acme' alone"):
            acme.create_key(tenant, ("read",))
    heard = set()
    for identifier in (globex.key.id, operator.key.id, "0" * 16):
        with pytest.raises(NotFoundError) as refused:
            acme.revoke_key(identifier)
        heard.add(str(refused.value).replace(identifier, "ID"))
    assert len(heard) == 1
    assert acme.revoke_key(made.id).revoked_at is not None
    with pytest.raises(UnknownKeyError):
        authenticate(store, secret)
    assert {key.tenant for key in operator.list_keys()} == {"acme", "globex", None}
