from __future__ import annotations

import re
import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from support.console_store import HOSTILE
from support.console_visitor import Visitor, make_application, text_of

from serving.console.backbone_page import answers_by_depth, block_rows
from serving.console.compare_page import roles
from store.backends.layout import blob_key
from store.records.manifest import MANIFEST_FORMAT
from store.records.splits import AliasSplit
from store.registry.store import Store

NEWER = b'"format":%d' % (MANIFEST_FORMAT + 1)
PAGES = (
    "/",
    "/tasks",
    "/tasks/acme/cars",
    "/tasks/acme/plain",
    "/compare?task=acme/cars",
    "/storage",
    "/servers",
    "/try",
)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_shown_to_every_key_that_may_read(visitor, path):
    for name in ("operator", "reader", "promoter"):
        page = visitor(name).page(path)
        assert "<h1" in page
        assert "<html lang=" in page


@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_a_style_or_a_script_of_its_own_in_it(visitor, path):
    page = visitor("operator").page(path)
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?! src=)", page) == []
    assert re.findall(r'(?:src|href|action)="(?!/console/|/v1/|#)[^"]*"', page) == []


def test_the_backbones_picture_counts_the_tasks_that_run_each_block_and_those_that_leave(visitor):
    text = text_of(visitor("reader").page("/"))
    assert "3 tasks run block 1" in text
    assert "1 task leaves acme/birds" in text
    assert "Mean depth 8.3 of 12 blocks" in text  # 5, 8 and 12


def test_blocks_are_shaded_by_the_answers_that_ran_them_where_they_were_counted():
    rows = block_rows((), 3, Counter({1: 6, 3: 4}))
    assert [(row.load, row.shade) for row in rows] == [(1.0, 5), (0.4, 2), (0.4, 2)]
    assert [row.shade for row in block_rows((), 2, Counter())] == [0, 0]
    assert answers_by_depth({"engine": {"answers_by_depth": {"2": 5}}}, ()) == {2: 5}
    assert answers_by_depth({}, ()) == {}


def names(page: str) -> list[str]:
    return re.findall(r'<th scope="row"><a class="name" href="/console/tasks/([^"]+)"', page)


def test_tasks_are_searched_filtered_and_sorted(visitor):
    operator = visitor("operator")
    assert names(operator.page("/tasks")) == ["acme/birds", "acme/cars", "acme/plain", "digits", "garden/roses"]
    assert names(operator.page("/tasks?q=AR")) == ["acme/cars", "garden/roses"]
    assert names(operator.page("/tasks?tenant=garden")) == ["garden/roses"]
    assert names(operator.page("/tasks?alias=prod")) == ["acme/cars"]
    assert names(operator.page("/tasks?tag=team%3Dvision")) == ["acme/cars"]
    assert names(operator.page("/tasks?method=lora&depth=8")) == ["acme/cars", "digits"]
    assert names(operator.page("/tasks?sort=depth&order=desc"))[0] == "acme/plain"
    assert names(operator.page("/tasks?backbone=other")) == []
    assert "No task matches" in operator.page("/tasks?q=zebra")


def test_a_list_longer_than_a_page_has_pages(visitor, monkeypatch):
    monkeypatch.setattr("serving.console.tasks_page.PAGE", 2)
    operator = visitor("operator")
    assert names(operator.page("/tasks")) == ["acme/birds", "acme/cars"]
    assert names(operator.page("/tasks?page=3")) == ["garden/roses"]
    assert names(operator.page("/tasks?page=99")) == ["garden/roses"]
    assert "3–4 of 5" in operator.page("/tasks?page=2")


def test_a_list_that_is_not_read_to_its_end_says_so(visitor, monkeypatch):
    monkeypatch.setattr("serving.console.listings.MOST_TASKS", 2)
    monkeypatch.setattr("serving.console.listings.MAX_PAGE", 2)
    page = visitor("operator").page("/tasks")
    assert names(page) == ["acme/birds", "acme/cars"]
    assert "search by a part of the name" in page


def test_a_tasks_page_has_its_evidence(visitor):
    text = text_of(visitor("reader").page("/tasks/acme/cars?version=3"))
    assert "89.8% 87.8% to 91.5%, 898 of 1,000 test images" in text  # Wilson's interval
    assert "The cut changes test accuracy by −3.20 points." in text
    assert "Silhouette scores of 512 samples; the dotted line is the threshold, 0.575" in text
    assert "drop ≤ 1 points" in text
    assert "drawings" in text
    assert "taxi wagon coach" in text
    assert "No server holds a version" in text
    assert "Undecided: depths 4, 5" in text_of(visitor("reader").page("/tasks/acme/birds"))


def test_what_was_measured_by_class_and_what_a_width_keeps_is_shown(visitor):
    page = visitor("reader").page("/tasks/acme/cars?version=3")
    text = text_of(page)
    assert "Macro F1 89.8% on the test images. Most confused: taxi as wagon (51), wagon as coach (51)." in text
    shown = "wagon 350 350 85.4% 85.4% 85.4% coach 250 301 83.1% 100.0% 90.7% taxi 400 349 100.0% 87.2% 93.2%"
    assert shown in text
    assert "Calibration error 6.1%; at temperature 1.3, which is not served, 1.8%" in text
    assert "Lost by float16 0.10 points, from 89.9%" in text
    kept = "24 of 24 attention heads and 1,104 of 1,536 MLP units and 96 of 128 patches of the blocks that run"
    assert f"{kept}, which saves" in text
    assert page.count("M0 1h1v1h-1z") == 8  # the first patch of the second row stays
    assert page.count("M0 0h1v1h-1z") == 4  # that of the first row leaves
    assert page.count('<th scope="row" class="num">', page.index("table-box widths")) >= 8
    assert "attention heads" not in visitor("reader").page("/tasks/acme/cars?version=2")


def test_an_alias_that_is_split_says_who_answers(visitor):
    assert "Of beta, version 2 answers 90%, version 3 answers 10%" in text_of(
        visitor("reader").page("/tasks/acme/cars")
    )
    text = text_of(visitor("reader").page("/compare?task=acme/cars&left=2&right=3"))
    assert "answers for prod beta, 90% latest beta, 10%" in text
    assert "units kept all 96, 108, 120, 132, 144, 156, 168, 180" in text
    assert "macro F1 92.6% 89.8%" in text
    assert "prefix:" not in text
    assert "What each block keeps, version 2 It keeps all." in text
    assert "What each block keeps, version 3 24 of 24 attention heads and 1,104 of 1,536 MLP units and 96" in text
    assert "deflate:" not in text
    assert "levels:" not in text


def test_the_latest_version_is_shown_unless_another_is_asked_for(visitor):
    assert "Certificate of version 3" in visitor("reader").page("/tasks/acme/cars")
    assert "Certificate of version 1" in visitor("reader").page("/tasks/acme/cars?version=1")
    assert "has no certificate" in visitor("reader").page("/tasks/acme/plain")


def test_a_server_that_holds_a_version_is_shown_and_named_to_the_operator_alone(changer, own_store: Store):
    version = own_store.resolve("acme/cars:2")
    own_store.lease([version.digest], holder="replica-7@node", ttl_s=60)
    assert "replica-7@node" in changer("operator").page("/tasks/acme/cars")
    shown = changer("reader").page("/tasks/acme/cars")
    assert "a server" in shown
    assert "replica-7" not in shown


def test_two_versions_are_compared(visitor):
    text = text_of(visitor("reader").page("/compare?task=acme/cars&left=1&right=3"))
    assert "accuracy cut 93.0% (930 of 1000; 91.2% to 94.4%) 89.8%" in text
    assert "Nothing differs" in visitor("reader").page("/compare?task=acme/cars&left=2&right=2")


def test_names_labels_and_tags_are_text_whatever_they_look_like(visitor):
    for path in ("/tasks", "/tasks/garden/roses", "/tasks/acme/birds", "/storage"):
        page = visitor("operator").page(path)
        assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in visitor("operator").page("/tasks/garden/roses")


def test_the_storage_page_adds_up_to_the_byte_and_gives_the_data_behind_its_pictures(visitor):
    operator = visitor("operator")
    page = operator.page("/storage")
    live, reclaimable, garbage, overhead, total = (
        int(number.replace(",", ""))
        for number in re.findall(r'<td class="num">([\d,]+)</td><td class="num">[\d.]+\s', page)[:5]
    )
    assert live + reclaimable + garbage + overhead == total > 0
    for name in re.findall(r"/storage/data\?name=([\w-]+)", page):
        answer = operator.get(f"/storage/data?name={name}")
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.text.count("\n") > 1


def test_what_the_report_could_not_read_is_named_to_the_operator(changer, own_store: Store):
    labels = own_store.resolve("acme/cars:3").manifest.head.labels
    (own_store.root / blob_key(labels.sha256)).unlink()
    text = text_of(changer("operator").page("/storage?again=1"))
    assert "acme/cars" in text.partition("Where every byte is")[0]
    assert "The class names cannot be read" in changer("reader").page("/tasks/acme/cars")


def test_a_version_of_a_newer_format_says_what_to_do_and_leaves_all_other_pages(changer, own_store: Store):
    version = own_store.resolve("acme/cars:3")
    newer = own_store.blobs.put(version.manifest.to_json().replace(b'"format":%d' % MANIFEST_FORMAT, NEWER))
    with closing(sqlite3.connect(own_store.root / "catalogue.sqlite")) as connection, connection:
        connection.execute("UPDATE versions SET digest = ? WHERE digest = ?", (newer.sha256, version.digest))
        connection.execute("UPDATE named SET digest = ? WHERE digest = ?", (newer.sha256, version.digest))
    operator = changer("operator")
    for path in ("/", "/tasks", "/tasks/acme/cars?version=2", "/try"):
        operator.page(path)
    for path in ("/tasks/acme/cars", "/compare?task=acme/cars&left=2&right=3"):
        answer = operator.get(path)
        assert answer.status_code < 500 or answer.status_code == 503, text_of(answer.text)
        assert f"has format {MANIFEST_FORMAT + 1}, this onetrunk reads up to" in text_of(answer.text)
        assert "upgrade onetrunk" in text_of(answer.text)
    told = text_of(operator.page("/storage?again=1")).partition("Where every byte is")[0]
    assert f"acme/cars:3: its bytes cannot be divided: manifest of acme/cars has format {MANIFEST_FORMAT + 1}" in told


def test_without_statistics_and_predictions_the_pages_say_so(visitor):
    assert "No statistics" in visitor("reader").page("/servers")
    assert "No server behind this page" in visitor("reader").page("/try")


def test_blocks_that_tasks_share_are_counted(visitor):
    text = text_of(visitor("reader").page("/sharing?refs=acme/cars:1,acme/birds:1"))
    assert text.startswith(
        "13 blocks ran , 13 would run for the tasks one by one: each of these tasks changes the first"
    )


def test_an_empty_store_says_what_to_do_next(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        visitor = Visitor(make_application(store, keys=False))
        assert "onetrunk backbone add" in visitor.page("/")
        for path in ("/tasks", "/storage"):
            assert "onetrunk publish TASK FOLDER" in visitor.page(path)


def test_a_console_without_keys_shows_everything_and_changes_nothing(shared_store):
    visitor = Visitor(make_application(shared_store, keys=False))
    assert len(names(visitor.page("/tasks"))) == 5
    assert visitor.get("/sign-in").headers["location"] == "/console/"
    assert "needs an API key with the scope promote" in visitor.page(
        "/change/promote?task=acme/cars&alias=prod&version=1"
    )
    refused = visitor.post("/change/promote", task="acme/cars", alias="prod", version="1", token="")
    assert refused.status_code == 403
    assert shared_store.aliases("acme/cars")["prod"] == 2


def test_what_a_version_answers_for_names_its_part_of_a_split():
    split = AliasSplit("cars", "prod", ((1, 90.0), (2, 10.0)), shadow=(3, 5.0), overload=4)
    aliases = {"latest": 4, "old": 1, "prod": 1}
    found = [roles(number, aliases, [split]) for number in (1, 2, 3, 4, 5)]
    assert found == [
        ["old", "prod, 90%"],
        ["prod, 10%"],
        ["prod, shadow of 5%"],
        ["latest", "prod, under overload"],
        [],
    ]
