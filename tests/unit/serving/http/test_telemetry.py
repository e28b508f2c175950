"""What a replica says of its requests is what they were, to those who may read it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from support.asgi_calls import Reply, ask
from support.oracle import png

from serving.http.api import Api, make_api
from serving.runtime.predictor import Predictor
from serving.telemetry.log_sink import LogSink
from serving.telemetry.recorder import Recorder
from serving.telemetry.snapshot import PeerSnapshots
from store.registry.store import Store
from store.registry.tenant_store import new_key

IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))
PREDICT = "/v1/predict/acme/cars"


@dataclass
class Observed:
    """An API with keys, and the file that its lines go to."""

    api: Api
    recorder: Recorder
    log: Path
    secrets: dict[str, str]

    def ask(self, who: str, method: str, url: str, **given: Any) -> Reply:
        headers = {"authorization": f"Bearer {self.secrets[who]}"} if who else {}
        return ask(self.api, method, url, **{**given, "headers": {**headers, **given.get("headers", {})}})

    def predict(self, who: str = "acme", query: str = "", **given: Any) -> Reply:
        return self.ask(who, "POST", PREDICT + query, **{"body": IMAGE, **given})

    def lines(self) -> list[dict[str, Any]]:
        self.recorder.settle()
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]

    def metrics(self) -> dict[tuple[str, str], float]:
        """The values of the page by name and by the labels but the replica's."""
        page = self.ask("operator", "GET", "/metrics").content.decode()
        return {
            (
                sample.name,
                " ".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "replica"),
            ): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }


@pytest.fixture
def observed(store: Store, predictor: Predictor, tmp_path: Path) -> Observed:
    secrets = {}
    for who, tenant in (("acme", "acme"), ("globex", "globex"), ("operator", None)):
        key, secrets[who] = new_key(tenant, ("read",))
        store.put_key(key)
    recorder = Recorder("r1", predictor.usage, log=LogSink(str(tmp_path / "log")))
    return Observed(make_api(predictor, store, keys=True, recorder=recorder), recorder, tmp_path / "log", secrets)


def test_a_line_says_who_asked_for_what_and_which_version_answered_in_how_long(observed: Observed) -> None:
    reply = observed.predict(headers={"x-request-id": "order-4711"})
    assert reply.headers["x-request-id"] == "order-4711"
    (line,) = observed.lines()
    assert (line["request_id"], line["status"], line["tenant"]) == ("order-4711", 200, "acme")
    assert (line["task"], line["version"], line["depth"]) == ("acme/cars", reply.body["version"], reply.body["depth"])
    assert re.fullmatch("[0-9a-f]{64}", line["digest"])
    assert (line["received"], line["sent"], line["images"]) == (len(IMAGE), len(reply.content), 1)
    stages = [line[f"{stage}_ms"] for stage in ("receive", "decode", "queue", "blocks", "head")]
    assert min(stages) >= 0
    assert sum(stages) <= line["ms"] + 0.01
    assert 0 < line["block_seconds"] <= line["blocks_ms"] / 1000 + 1e-6


def test_an_id_that_is_not_clean_is_replaced_and_one_that_is_missing_is_made(observed: Observed) -> None:
    for sent in ("x" * 65, "a b", 'quo"te', "é", ""):
        reply = observed.predict(headers={"x-request-id": sent})
        assert re.fullmatch("[0-9a-f]{24}", reply.headers["x-request-id"])
    assert [line["request_id"] for line in observed.lines()][-1] == reply.headers["x-request-id"]


def test_several_tasks_or_images_are_one_line(observed: Observed) -> None:
    observed.ask("acme", "POST", "/v1/predict?ref=acme/cars&ref=acme/cars:1", body=IMAGE)
    two = b"".join(len(IMAGE).to_bytes(4, "little") + IMAGE for _ in range(2))
    observed.predict(body=two, headers={"content-type": "application/vnd.onetrunk.images"})
    fan_out, several = observed.lines()
    assert [(a["task"], a["version"]) for a in fan_out["answers"]] == [("acme/cars", 1)] * 2
    assert (several["task"], several["images"]) == ("acme/cars", 2)


def test_every_failure_has_its_cause_and_of_a_mistake_of_the_server_also_the_place(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert observed.predict(query="?timeout_ms=0.0001").status == 503
    assert observed.predict(body=b"no image").status == 400
    assert observed.ask("acme", "GET", "/v1/nothing").status == 404
    assert observed.ask("", "GET", "/v1/tasks").status == 401
    monkeypatch.setattr(Store, "history", lambda *_args, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # which the framework hands on, once it has answered 500
        observed.ask("acme", "GET", "/v1/history/acme/cars")
    late, bad, unknown, stranger, broken = observed.lines()
    assert (late["error"], late["status"]) == ("DeadlineError", 503)
    assert "late" in late["cause"]
    assert (bad["error"], bad["task"]) == ("ImageError", "acme/cars")
    assert unknown["error"] == "HTTPException"
    assert (stranger["tenant"], stranger["error"]) == ("(unknown)", "UnknownKeyError")
    assert (broken["status"], broken["error"]) == (500, "ZeroDivisionError")
    assert any("test_telemetry.py" in frame for frame in broken["traceback"])
    errors = observed.ask("operator", "GET", "/v1/statistics").body["errors"]
    assert [(e["status"], e["request_id"]) for e in errors] == [
        (line["status"], line["request_id"]) for line in (broken, stranger, unknown, bad, late)
    ]


def test_a_tenant_sees_its_own_alone_and_the_operator_everything(observed: Observed) -> None:
    observed.predict("acme")
    observed.predict("operator")
    observed.predict("globex")  # 404: its tasks begin otherwise
    own, other, every = (observed.ask(who, "GET", "/v1/statistics").body for who in ("acme", "globex", "operator"))
    assert [row["tenant"] for row in own["tenants"]] == ["acme"]
    assert [row["task"] for row in own["tasks"]] == ["acme/cars"]
    assert (own["errors"], own["latency_ms"]["total"]["count"]) == ([], 1)
    assert "acme" not in json.dumps(other).replace("/v1/predict/acme/cars", "").replace("no task 'acme/cars'", "")
    assert (other["tasks"], other["requests"]["by_status_lately"]) == ([], {"404": 1})
    assert other["errors"][0]["error"] == "TaskNotFoundError"
    assert own.keys() == other.keys()
    assert {row["tenant"] for row in every["tenants"]} == {"acme", "globex", "(operator)"}
    assert every["requests"]["by_status"] == {"200": 2, "404": 1}
    assert observed.ask("acme", "GET", "/metrics").status == 403
    assert observed.ask("", "GET", "/v1/statistics").status == observed.ask("", "GET", "/metrics").status == 401


def test_metrics_lines_and_statistics_are_the_same_numbers(observed: Observed) -> None:
    for _ in range(5):
        observed.predict()
    lines, metrics = observed.lines(), observed.metrics()
    statistics = observed.ask("operator", "GET", "/v1/statistics").body
    assert metrics["onetrunk_requests_total", "route=predict status=200 tenant=acme"] == 5
    assert metrics["onetrunk_block_seconds_total", "tenant=acme"] == pytest.approx(
        sum(line["block_seconds"] for line in lines), abs=1e-5
    )
    assert statistics["tenants"][0]["block_seconds"] == pytest.approx(
        metrics["onetrunk_block_seconds_total", "tenant=acme"], abs=1e-6
    )
    assert metrics["onetrunk_received_bytes_total", "tenant=acme"] == 5 * len(IMAGE)
    assert metrics["onetrunk_sent_bytes_total", "tenant=acme"] == sum(line["sent"] for line in lines)
    assert metrics["onetrunk_answers_total", "task=acme/cars"] == 5
    assert metrics["onetrunk_blocks_saved_total", "depth=2"] == 5 * (observed_blocks(statistics) - 2)
    for stage in ("receive", "decode", "queue", "blocks", "head"):
        assert metrics["onetrunk_stage_seconds_count", f"stage={stage}"] == 5
        assert metrics["onetrunk_stage_seconds_sum", f"stage={stage}"] == pytest.approx(
            sum(line[f"{stage}_ms"] for line in lines) / 1000, abs=1e-5
        )
    assert statistics["latency_ms"]["total"]["p50"] == sorted(line["ms"] for line in lines)[2]


def observed_blocks(statistics: dict[str, Any]) -> int:
    (saved,), (answers,) = (statistics["engine"][f"{name}_by_depth"].values() for name in ("blocks_saved", "answers"))
    return 2 + saved // answers


def test_health_checks_and_scrapes_are_neither_counted_nor_logged(observed: Observed) -> None:
    for url in ("/healthz", "/readyz", "/metrics", "/v1/statistics"):
        assert observed.ask("operator", "GET", url).status == 200
    assert observed.lines() == []
    assert not [name for name, _ in observed.metrics() if name == "onetrunk_requests_total"]


def test_whichever_replica_answers_tells_of_all_and_how_many_are_missing(store: Store, predictor: Predictor) -> None:
    apis = [make_api(predictor, store, keys=False, recorder=Recorder(name, predictor.usage)) for name in "ab"]
    for count, api in enumerate(apis, start=1):
        for _ in range(count):
            assert ask(api, "POST", PREDICT, body=IMAGE).status == 200

    async def peers() -> PeerSnapshots:
        return PeerSnapshots([api.snapshot() for api in apis], missing=1)

    asked = [make_api(predictor, store, keys=False, recorder=Recorder("c", predictor.usage), peers=peers) for _ in "12"]
    for api in asked:
        statistics = ask(api, "GET", "/v1/statistics").body
        assert (statistics["requests"]["total"], statistics["replicas_missing"]) == (3, 1)
        assert [row["replica"] for row in statistics["replicas"]] == ["a", "b"]
        page = ask(api, "GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert page.headers["content-type"].startswith("application/openmetrics-text")
        assert 'onetrunk_answers_total{replica="b",task="acme/cars"} 2.0' in page.content.decode()
        assert page.content.decode().endswith("# EOF\n")
