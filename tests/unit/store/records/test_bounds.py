"""What a stranger can send to the catalogue is bounded before it is asked, and what is too large has a typed error."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from support.toy_backbone import publish

from store.catalogue.database import Database
from store.errors import InvalidNameError, InvalidSettingError
from store.maintenance.verify import verify
from store.queries.reader import Queries
from store.records.listing import Search
from store.registry.api_keys import new_key
from store.registry.publish import PublishOptions
from store.registry.store import Store

LONG = "a" * 60_000
HUGE = 2**63
CALLS: dict[str, Callable[[Store], object]] = {
    "text": lambda store: store.search(Search(text=LONG)),
    "pattern": lambda store: store.search(Search(text="%_" * 30_000)),
    "zero": lambda store: store.search(Search(text="a\0b")),
    "half a letter": lambda store: store.search(Search(text="\ud800")),
    "number": lambda store: store.search(Search(text=7)),
    "tags": lambda store: store.search(Search(tags={f"t{n}": "x" for n in range(1500)})),
    "tag": lambda store: store.search(Search(tags={LONG: "x"})),
    "tag value": lambda store: store.search(Search(tags={"team": LONG})),
    "backbone": lambda store: store.search(Search(backbone=LONG)),
    "method": lambda store: store.search(Search(method=LONG)),
    "alias": lambda store: store.search(Search(alias=LONG)),
    "after": lambda store: store.search(after=LONG),
    "limit": lambda store: store.search(limit=HUGE),
    "no limit": lambda store: store.search(limit=0),
    "versions after": lambda store: store.list_versions("flowers", after=HUGE),
    "versions limit": lambda store: store.list_versions("flowers", limit=-1),
    "history after": lambda store: store.history("flowers", after=-1),
    "history limit": lambda store: store.history("flowers", limit=HUGE),
    "key": lambda store: store.api_key(LONG),
    "keys after": lambda store: store.api_keys(after=LONG),
    "version of an alias": lambda store: store.set_alias("flowers", "prod", HUGE),
    "version below 1": lambda store: store.set_alias("flowers", "prod", 0),
    "version of a tag": lambda store: store.set_tag("flowers", "team", "x", version=HUGE),
    "version to restore": lambda store: store.restore("flowers", HUGE),
    "value of a tag": lambda store: store.set_tag("flowers", "team", LONG),
    "aliases": lambda _store: PublishOptions(aliases=tuple(f"a{n}" for n in range(1500))),
    "scopes": lambda _store: new_key("acme", ("read",) * 1500),
    "ref": lambda store: store.resolve("flowers@" + LONG),
    "no ref": lambda store: store.resolve(None),
    "number as ref": lambda store: store.resolve(3),
    "version in a ref": lambda store: store.resolve(f"flowers:{HUGE}"),
    "no name": lambda store: store.history(None),
    "actor": lambda store: store.with_actor(LONG),
    "no actor": lambda store: store.with_actor(""),
    "actor of lines": lambda store: store.with_actor("ann\nbob"),
    "lease for ever": lambda store: store.lease([], holder="x", ttl_s=math.inf),
    "lease of no number": lambda store: store.lease([], holder="x", ttl_s=math.nan),
    "lease of no time": lambda store: store.lease([], holder="x", ttl_s=0),
    "lease of years": lambda store: store.lease([], holder="x", ttl_s=1e9),
    "processes": lambda store: verify(store, processes=-1),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_too_large_or_no_value_is_refused_in_one_line(store: Store, folder: Path, name: str) -> None:
    publish(store, folder)
    with pytest.raises((InvalidSettingError, InvalidNameError)) as caught:
        CALLS[name](store)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert store.search().next is None  # the store goes on


@pytest.mark.parametrize("value", [LONG, "a\0b", HUGE, -HUGE - 1])
def test_no_query_of_sqlite_or_postgresql_takes_what_the_database_could_not(
    store: Store, database: str, value: object
) -> None:
    server = Database(None, url=database, read_only=False)
    with Store.open(store.root.with_name("other"), create=True, catalogue=database):
        for queries in (store.queries, Queries(server.snapshot)):
            with pytest.raises(InvalidSettingError, match="than the catalogue takes"):
                queries.find("flowers", alias=value)
    server.close()


@pytest.mark.parametrize("statement", ["SELECT 1 WHERE 'a' LIKE hex(zeroblob(40000))", f"SELECT {'1+' * 2000}1"])
def test_a_limit_of_sqlite_is_no_damage(store: Store, statement: str) -> None:
    with pytest.raises(InvalidSettingError, match="ask for less"), store.queries.connect() as select:
        list(select(statement))
