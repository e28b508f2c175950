from __future__ import annotations

import inspect

import pytest
from support.tenants import STRICTER, UNNAMED, VERBS, untouched

from store.errors import NotAllowedError, TaskNotFoundError
from store.registry.tenant_store import SCOPES, TenantStore


def test_every_verb_stands_in_these_tables() -> None:
    verbs = {name for name, _ in inspect.getmembers(TenantStore, inspect.isfunction) if not name.startswith("_")}
    assert verbs - {"worded"} == VERBS.keys() | UNNAMED.keys()  # which words an error, and asks the store nothing


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("task", ["globex/cars", "flowers", "acme-eu/cars", "Acme/cars", "acm/cars", "acme"])
def test_of_a_name_that_is_not_the_tenants_nothing_is_looked_up_and_all_hear_the_same(name: str, task: str) -> None:
    heard = set()
    for wanted in (task, f"{task}-x"):
        with pytest.raises(TaskNotFoundError) as refused:
            VERBS[name][1](untouched("acme", "admin"), wanted)
        heard.add(str(refused.value).replace(repr(wanted), "TASK"))
    assert len(heard) == 1
    assert "'acme/…'" in heard.pop()


@pytest.mark.parametrize("name", [*VERBS, *UNNAMED])
def test_a_key_without_the_scope_is_refused_before_anything_is_looked_up(name: str) -> None:
    scope, call = VERBS[name] if name in VERBS else (UNNAMED[name][0], lambda s, _: UNNAMED[name][1](s))
    others = untouched("acme", *(known for known in SCOPES if known not in (scope, "admin")))
    with pytest.raises(NotAllowedError, match=f"needs the scope {scope}.*send a key that has it"):
        call(others, "acme/cars")
    if name != "check":
        with pytest.raises(AssertionError, match="looked up"):
            call(untouched("acme", "admin"), "acme/cars")


@pytest.mark.parametrize("name", STRICTER)
def test_what_moves_a_protected_alias_or_takes_all_away_needs_more_than_the_verb_does(name: str) -> None:
    with pytest.raises(NotAllowedError, match=r"needs the scope (admin|promote)"):
        STRICTER[name](untouched("acme", "read", "publish", *(() if "promotes" in name else ("promote",))), "acme/cars")
