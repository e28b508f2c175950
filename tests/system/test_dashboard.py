"""Every panel and every alert of deploy/ asks for metrics, labels and values that a real run emitted."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.asgi_calls import ask, talk
from support.oracle import make_task, open_shop, png

from serving.http.api import Api, make_api
from serving.runtime.predictor import Predictor
from serving.telemetry.refusals import SETTING
from store.records.splits import SplitOptions
from store.registry.splits import split_alias

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD, RULES = DEPLOY / "grafana" / "onetrunk.json", DEPLOY / "prometheus" / "rules.yml"
METRIC = re.compile(r"\bonetrunk_\w+")
SELECTOR = re.compile(r"(onetrunk_\w+)\{([^}]*)\}")
BY = re.compile(r"\bby \(([^)]*)\)")
IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))


def panels() -> dict[str, list[str]]:
    """The expressions of each panel, by its title."""
    dashboard = json.loads(DASHBOARD.read_text())
    shown = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    titles = {f"{panel['id']} {panel['title']}": [t["expr"] for t in panel["targets"]] for panel in shown}
    assert len(titles) == len(shown)
    return titles


def rules() -> dict[str, list[str]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule.get("alert") or rule["record"]: [rule["expr"]] for rule in group["rules"]}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """The label sets of each sample name after answers, loads, an eviction, refusals, a failure and a split."""
    folder = tmp_path_factory.mktemp("run")
    with (
        pytest.MonkeyPatch.context() as patch,
        open_shop(folder) as shop,
        Predictor(shop.store, dtype="float32") as predictor,
    ):
        patch.setenv(SETTING, str(folder / "refused.json"))
        for depth, task in ((1, "cars"), (2, "acme/birds"), (3, "cars")):
            made = make_task(shop.backbone, folder / str(depth), depth=depth, classes=3)
            shop.store.publish(task, made.folder, backbone=shop.backbone.record.name, depth=depth)
        shop.store.set_alias("cars", "prod", 1)
        split_alias(shop.store, "cars", "prod", {1: 50, 2: 50}, options=SplitOptions(shadow=(2, 100)))
        predictor.tasks.cache._budget_nbytes = 1
        api = make_api(predictor, shop.store, keys=False)
        for url in ("cars", "acme/birds", "cars?timeout_ms=0.0001", "nothing"):
            ask(api, "POST", f"/v1/predict/{url}", body=IMAGE)
        ask(api, "GET", "/v1/tasks")
        page = asyncio.run(asyncio.wait_for(page_after_a_split(api), 30))
    emitted = defaultdict(list)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            emitted[sample.name].append(sample.labels)
            if sample.name == "onetrunk_cache_evictions_total":
                assert sample.value > 0
    return emitted


async def page_after_a_split(api: Api) -> str:
    """Ask for a split alias until its candidate answered and its shadow was compared; return the metrics then."""
    page = ""
    while "onetrunk_split_comparisons_total{" not in page or 'part="candidate"' not in page:
        await talk(api, "POST", "/v1/predict/cars@prod", body=IMAGE)
        await asyncio.sleep(0.05)
        page = (await talk(api, "GET", "/metrics")).content.decode()
    return page


def missing(expression: str, series: dict[str, list[dict[str, str]]]) -> Iterator[str]:
    """Yield what the expression asks for and no sample has."""
    names = set(METRIC.findall(expression))
    yield from names - series.keys()
    labels = {label for name in names for sample in series.get(name, ()) for label in sample}
    for grouped in BY.findall(expression):
        yield from {label.strip() for label in grouped.split(",")} - labels
    for name, selector in SELECTOR.findall(expression):
        for label, operator, value in re.findall(r'(\w+)(=~?|!=)"([^"]*)"', selector):
            pattern = value if operator == "=~" else re.escape(value)
            matches = [re.fullmatch(pattern, sample.get(label, "")) is not None for sample in series[name]]
            if (operator != "!=") not in matches:
                yield f"{name}{{{label}{operator}{value}}}"


@pytest.mark.parametrize("title", panels())
def test_every_panel_is_fed_by_a_metric_of_a_real_run(title: str, series: dict[str, list[dict[str, str]]]) -> None:
    for expression in panels()[title]:
        assert METRIC.search(expression)
        assert list(missing(expression, series)) == []


@pytest.mark.parametrize("name", rules())
def test_every_rule_is_fed_by_a_metric_of_a_real_run_or_by_another_rule(
    name: str, series: dict[str, list[dict[str, str]]]
) -> None:
    (expression,) = rules()[name]
    recorded = [other for other in rules() if ":" in other and other in expression]
    for other in recorded:
        expression = expression.replace(other, "")
    assert METRIC.search(expression) or recorded
    assert list(missing(expression, series)) == []


def test_the_walk_finds_what_is_not_emitted(series: dict[str, list[dict[str, str]]]) -> None:
    wrong = 'sum by (colour) (rate(onetrunk_requests_total{status="418"}[5m])) + onetrunk_nothing'
    assert set(missing(wrong, series)) == {"colour", "onetrunk_requests_total{status=418}", "onetrunk_nothing"}
    assert list(missing('onetrunk_requests_total{route!="predict"}', series)) == []
    assert list(missing('onetrunk_replica_info{dtype!="float32"}', series)) == ["onetrunk_replica_info{dtype!=float32}"]


def test_every_metric_is_in_the_docs_and_the_docs_name_no_other(series: dict[str, list[dict[str, str]]]) -> None:
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series}
    page = (ROOT / "docs" / "observing.md").read_text()
    named = {f"onetrunk_{name}" for name in re.findall(r"^\| `onetrunk_(\w+)`", page, re.MULTILINE)}
    assert named == families


def test_every_alert_has_a_severity_a_summary_a_remedy_and_a_test() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    tested = (RULES.parent / "rules_test.yml").read_text()
    for rule in group["rules"]:
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert {"summary", "remedy"} == rule["annotations"].keys()
            assert f"alertname: {rule['alert']}" in tested


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_promtool_agrees() -> None:
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(["promtool", *words], cwd=RULES.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
