"""`onetrunk report`: its questions, its formats, and the page that it makes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.cli import call
from support.toy_backbone import publish, relabel

from store.records.manifest import MANIFEST_FORMAT
from store.registry.store import Store

PRICES = """currency = "EUR"
[storage]
price = 0.023
per = "GB-month"
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEWER = b'"format":%d' % (MANIFEST_FORMAT + 1)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture
def published(store: Store, folder: Path) -> Path:
    for name in ("a", "b", "c"):
        publish(store, relabel(folder, name, "y", "z"))
        publish(store, folder, "acme/cars")
    store.release_connections()
    return store.root


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    (tmp_path / "prices.toml").write_text(PRICES)
    return tmp_path / "prices.toml"


@pytest.fixture
def log(tmp_path: Path) -> list[str]:
    """The options for a server's log: a request long after everything was published, and one that failed."""
    line = {"time": "2099-01-01T00:00:00.000Z", "status": 200, "tenant": "acme", "task": "flowers", "images": 1}
    lines = [{**line, "block_seconds": 7200}, {**line, "tenant": "(anyone)", "status": 503, "block_seconds": 0.5}]
    text = "".join(f"{json.dumps(each)}\n" for each in lines) + "cut sho"
    (tmp_path / "requests.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return ["--request-log", str(tmp_path / "requests.jsonl.gz"), "--unasked-for", "36h"]


class Page(HTMLParser):
    """The machine-readable numbers of a page, and every address that it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: list[float] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if tag == "data" and name == "value":
                self.numbers.append(float(value or "nan"))
            if name in ("href", "src", "action", "data", "poster", "srcset"):
                self.addresses.append(value or "")


def numbers_in(value: object) -> set[float]:
    if isinstance(value, dict):
        return {number for item in value.values() for number in numbers_in(item)}
    if isinstance(value, list):
        return {number for item in value for number in numbers_in(item)}
    if isinstance(value, str) and re.fullmatch(r"-?\d+\.\d+", value):
        return {float(value)}
    return {float(value)} if isinstance(value, (int, float)) else set()


def asking(prices: Path) -> list[str]:
    return ["--keep-last", "1", "--since", "2000-01-01", "--prices", str(prices)]


def test_the_json_of_the_same_store_is_the_same_to_the_byte(published, prices):
    first = call("report", "--format", "json", store=published)
    assert call("report", "--format", "json", store=published).out == first.out
    assert first.json["format"] == 2
    asked = call("report", "--format", "json", *asking(prices), store=published)
    assert asked.json.keys() - first.json.keys() == {"retention", "since", "costs"}
    assert {name: asked.json[name] for name in first.json} == first.json


def test_the_page_fetches_nothing_and_its_numbers_are_those_of_the_json(published, prices):
    page = Page(call("report", "--format", "html", *asking(prices), store=published).out)
    whole = call("report", "--format", "json", *asking(prices), store=published).json
    assert len(page.numbers) > 100
    assert set(page.numbers) <= numbers_in(whole)
    assert all(address.startswith("data:text/csv;") for address in page.addresses)


def test_a_bill_adds_up_to_what_the_table_of_tenants_says(published, prices):
    bill = call("report", "--format", "csv", "--prices", str(prices), store=published)
    charges = list(csv.DictReader(io.StringIO(bill.out)))
    told = call("report", "--format", "json", "--prices", str(prices), store=published).json
    assert sum(Decimal(row["BilledCost"]) for row in charges) == Decimal(told["costs"]["cost"])
    assert sum(int(row["x_Bytes"]) for row in charges) == told["places"]["physical_nbytes"]


@pytest.mark.parametrize(
    "rows",
    [
        "tasks",
        "versions",
        "groups",
        "growth",
        "forms",
        "backbones",
        "retention",
        "since",
        "charges",
        "tenants",
        "unasked",
    ],
)
def test_every_table_is_to_be_had_as_csv(published, prices, log, rows):
    done = call("report", "--format", "csv", "--rows", rows, *asking(prices), *log, store=published)
    assert done.code == 0
    assert len(list(csv.DictReader(io.StringIO(done.out)))) > 0


def test_requests_say_who_pays_for_the_engine_and_what_nobody_asked_for(published, prices, log, tmp_path):
    prices.write_text(PRICES + '[compute]\nprice = 0.05\nper = "vCPU-hour"\ncores = 2\n')
    told = call("report", "--format", "json", "--prices", str(prices), *log, store=published).json
    assert [(row["tenant"], row["compute"]) for row in told["costs"]["tenants"]] == [
        ("", "0"), ("(anyone)", "0.000013889"), ("acme", "0.200000000"),
    ]  # fmt: skip
    assert [row["task"] for row in told["unasked"]["tasks"]] == ["acme/cars"]
    text = call("report", "--prices", str(prices), *log, store=published).out
    assert "What nobody asked for" in text
    value = {
        "format": 1, "at": "2099-01-01T00:00:00.000Z", "tenant": None, "replicas_missing": 0, "tasks_left_out": 0,
        "replicas": [{"started_at": "2098-12-31T00:00:00.000Z", "cpu_s": 9.5}], "tasks": [],
        "tenants": [{"tenant": "acme", "block_seconds": 36}],
    }  # fmt: skip
    (tmp_path / "statistics.json").write_text(json.dumps(value))
    asking = ["--prices", str(prices), "--statistics", str(tmp_path / "statistics.json")]
    done = call("report", *asking, store=published)
    assert "not asked for since 2098-12-31T00:00:00.000+00:00; of earlier requests nothing is known" in done.err
    assert "36 block-seconds of an engine with 2 cores; with all else the servers used 9.5 s" in done.err
    assert len(call("report", *asking, "--format", "json", store=published).json["unasked"]["tasks"]) == 2


def test_an_older_report_is_compared_with_the_store_of_today(published, folder, tmp_path):
    (tmp_path / "old.json").write_text(call("report", "--format", "json", store=published).out)
    with Store.open(published) as store:
        publish(store, relabel(folder, "new", "y", "z"), "birds")
    done = call("report", "--diff", str(tmp_path / "old.json"), "--format", "csv", "--rows", "reasons", store=published)
    assert 'task,birds,"new task, 1 versions published"' in done.out
    text = call("report", "--diff", str(tmp_path / "old.json"), "--format", "md", store=published).out
    assert "## What grew, and why" in text


def test_pictures_are_written_with_their_data(published, tmp_path):
    assert call("report", "--pictures", str(tmp_path / "pictures"), store=published).code == 0
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == sorted(f"{n}.{e}" for n in ("task-bytes", "scaling", "backbone", "growth") for e in ("svg", "csv"))
    assert (tmp_path / "pictures" / "growth.svg").read_text("utf-8").startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rows", "versions"], "--rows versions chooses the table of CSV: add --format csv"),
        (["--format", "csv", "--rows", "charges"], "--rows charges needs --prices FILE"),
        (["--format", "csv", "--rows", "retention"], "--rows retention needs --keep-last N or --older-than AGE"),
        (["--older-than", "soon"], "duration 'soon' is not valid"),
        (["--older-than", "99999999d"], "--older-than 99999999d is before the year 1"),
        (["--since", "soon"], "time 'soon' is not ISO 8601"),
        (["--prices", "none.toml"], "none.toml cannot be read (No such file or directory)"),
        (["--statistics", "none.json"], "none.json cannot be read (No such file or directory)"),
        (["--statistics", "http://127.0.0.1:1"], "127.0.0.1:1"),
        (["--request-log", "none.jsonl"], "no log 'none.jsonl': give a file that a server wrote"),
        (["--request-log", "."], "log '.' cannot be read"),
        (["--request-log", "a", "--statistics", "b"], "would count requests twice: give one of them"),
        (["--format", "csv", "--rows", "unasked"], "--rows unasked needs --statistics URL or --request-log FILE"),
        (["--diff", "none.json"], "none.json cannot be read (No such file or directory)"),
    ],
)
def test_a_wrong_question_is_one_line_that_says_what_to_write(published, arguments, told):
    done = call("report", *arguments, store=published)
    assert done.code != 0
    assert told in done.err
    assert done.err.count("\n") == 1


def test_prices_with_a_wrong_unit_are_refused_before_the_store_is_counted(tmp_path):
    (tmp_path / "prices.toml").write_text(PRICES.replace("GB-month", "GB-week"))
    done = call("report", "--prices", str(tmp_path / "prices.toml"), store=tmp_path / "no store")
    assert "storage is priced per 'GB-week', which is not a unit of it: write GB-month" in done.err


def test_pictures_that_cannot_be_written_are_one_line(published, tmp_path):
    (tmp_path / "file").write_text("")
    done = call("report", "--pictures", str(tmp_path / "file"), store=published)
    assert "cannot hold the pictures" in done.err


def test_what_could_not_be_seen_comes_first_and_warns(published):
    with Store.open(published) as store:
        path = Path(store.blobs.locate(store.resolve("flowers:1").manifest.head.labels))
    path.unlink()
    done = call("report", store=published)
    assert done.code == 0
    assert done.out.startswith("What could not be seen")
    assert f"warning: {path} of " in done.err


def newer_manifest(root: Path, task: str) -> None:
    """Let the only version of the task have a manifest as a newer onetrunk would write it."""
    with Store.open(root) as store:
        version = store.resolve(task)
        newer = store.blobs.put(version.manifest.to_json().replace(b'"format":%d' % MANIFEST_FORMAT, NEWER))
    with closing(sqlite3.connect(root / "catalogue.sqlite")) as connection, connection:
        connection.execute("UPDATE versions SET digest = ? WHERE digest = ?", (newer.sha256, version.digest))
        connection.execute("UPDATE named SET digest = ? WHERE digest = ?", (newer.sha256, version.digest))


def test_a_version_with_a_newer_manifest_is_one_line_and_all_else_is_counted(published):
    newer_manifest(published, "flowers:3")
    done = call("report", "--format", "json", store=published)
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert done.err.startswith(
        f"warning: flowers:3 its bytes cannot be divided: manifest of flowers has format {MANIFEST_FORMAT + 1}, this"
    )
    assert done.err.endswith("upgrade onetrunk\n")
    assert done.json["places"]["physical_nbytes"] == sum(p.stat().st_size for p in published.rglob("*") if p.is_file())
    assert [bool(row["unknown_nbytes"]) for row in done.json["versions"]] == [False] * 5 + [True]


@pytest.mark.parametrize("command", [("report",), ("report", "--format", "json"), ("console", "--port", "1")])
def test_a_store_whose_catalogue_is_of_a_newer_format_is_refused_in_one_line(published, command):
    with closing(sqlite3.connect(published / "catalogue.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    done = call(*command, store=published)
    assert done.code == 1
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert "99" in done.err
    assert "upgrade onetrunk" in done.err


@needs_chromium
def test_the_page_opens_from_disk_without_a_request_and_prints(published, prices, tmp_path):
    page, log, pdf = tmp_path / "report.html", tmp_path / "net.json", tmp_path / "report.pdf"
    page.write_text(call("report", "--format", "html", *asking(prices), store=published).out, "utf-8")
    browser = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'p'}"]
    browser += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    opened = [*browser, f"--log-net-log={log}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(opened, capture_output=True, text=True, timeout=120, check=True).stdout
    assert sorted(Page(dom).numbers) == sorted(Page(page.read_text("utf-8")).numbers)
    asked = set(re.findall(r'"url":"(https?://[^"/]*)', log.read_text("utf-8", "replace")))
    assert not [url for url in asked if not url.endswith(("google.com", "googleapis.com", "gstatic.com", "gvt1.com"))]
    printed = [*browser, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", page.as_uri()]
    subprocess.run(printed, capture_output=True, timeout=120, check=True)
    assert pdf.read_bytes().startswith(b"%PDF")
