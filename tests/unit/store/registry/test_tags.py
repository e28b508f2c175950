"""What tags and searches promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.toy_backbone import publish

from store.errors import (
    InvalidNameError,
    InvalidSettingError,
)
from store.records.listing import Search
from store.registry.store import Store, Version


def tagged(store: Store, folder: Path) -> Store:
    for task in ("zoo", "Acme", "acme/cars", "acme/under_score", "other/cars"):
        publish(store, folder, task)
    store.set_tag("zoo", "stage", "live")
    store.set_tag("acme/cars", "stage", "live", version=1)
    store.set_tag("other/cars", "stage", "live")
    store.set_tag("other/cars", "stage", "test", version=1)
    return store


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (Search(), ["Acme", "acme/cars", "acme/under_score", "other/cars", "zoo"]),
        (Search(text="CARS"), ["acme/cars", "other/cars"]),
        (Search(text="_"), ["acme/under_score"]),
        (Search(text="%"), []),
        (Search(text="!"), []),
        (Search(tenant="acme"), ["acme/cars", "acme/under_score"]),
        (Search(tenant=""), ["Acme", "zoo"]),
        (Search(tenant="acm"), []),
        (Search(tags={"stage": "live"}), ["acme/cars", "zoo"]),
        (Search(tags={"stage": "test"}), ["other/cars"]),
        (Search(tags={"stage": "live", "owner": "ann"}), []),
        (Search(alias="prod"), []),
        (Search(backbone="toy/vit", method="lora", text="z"), ["zoo"]),
        (Search(backbone="another"), []),
    ],
)
def test_a_search_finds_what_matches_all_of_it_and_pages_in_the_order_of_names(
    anywhere: Store, folder: Path, search: Search, expected: list[str]
) -> None:
    tagged(anywhere, folder)
    found, page = [], anywhere.search(search, limit=2)
    while page.next is not None:
        found += page.rows
        assert len(page.rows) == 2
        page = anywhere.search(search, limit=2, after=page.next)
    assert [row.task for row in (*found, *page.rows)] == expected


def test_a_versions_own_tag_stands_before_its_tasks(store: Store, release: Callable[..., Version]) -> None:
    release()
    release()
    store.set_tag("flowers", "stage", "live")
    store.set_tag("flowers", "stage", "test", version=2)
    assert [row.tags for row in store.list_versions("flowers")] == [{"stage": "live"}, {"stage": "test"}]
    store.set_tag("flowers", "stage", None, version=2)
    assert [row.tags for row in store.list_versions("flowers")] == [{"stage": "live"}, {"stage": "live"}]


def test_a_page_lists_the_version_that_the_alias_names(store: Store, release: Callable[..., Version]) -> None:
    release(aliases=("prod",))
    release()
    assert [row.version for row in store.search().rows] == [2]
    assert [row.version for row in store.search(Search(alias="prod")).rows] == [1]
    with pytest.raises(InvalidSettingError, match="limit 0"):
        store.search(limit=0)


@pytest.mark.parametrize("value", ["", "x" * 301, "a\nb", "a\x00b"])
def test_a_tag_is_a_short_line(store: Store, release: Callable[..., Version], value: str) -> None:
    release()
    with pytest.raises(InvalidNameError, match="1 to 300 printable characters"):
        store.set_tag("flowers", "stage", value)
