"""Which version answered a request: the log of a real API and the history, after the alias has moved on."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
import torch
from support.asgi_calls import ask
from support.cli import call
from support.oracle import make_task, open_shop, png

from onetrunk import find_request
from serving.http.api import make_api
from serving.runtime.predictor import Predictor
from serving.telemetry.log_sink import LogSink
from serving.telemetry.recorder import Recorder
from store.errors import NotFoundError
from store.registry.store import Store

IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))


def until_served(predictor: Predictor, number: int) -> None:
    """Wait until the replica has noticed where the alias points."""
    end = time.monotonic() + 30
    while predictor.versions.find("cars@prod").version.number != number:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store whose alias moved from version 1 to 2 between two requests, and the log of both, and of a third."""
    root = tmp_path_factory.mktemp("logged")
    with open_shop(root) as shop:
        store, name = shop.store.with_actor("ann"), shop.backbone.record.name
        for seed in (1, 2):
            made = make_task(shop.backbone, root / f"task{seed}", depth=seed, classes=3, seed=seed)
            store.publish("cars", made.folder, backbone=name, depth=seed)
        sink = LogSink(str(root / "requests.jsonl"))
        with Predictor(shop.store, dtype="float32") as predictor:
            recorder = Recorder("r1", predictor.usage, log=sink)
            api = make_api(predictor, shop.store, keys=False, recorder=recorder)
            for number in (1, 2):
                store.set_alias("cars", "prod", number)
                until_served(predictor, number)
                header = {"x-request-id": f"req-{number}"}
                ask(api, "POST", "/v1/predict?ref=cars@prod&ref=cars:1", body=IMAGE, headers=header)
            ask(api, "POST", "/v1/predict/birds", body=IMAGE, headers={"x-request-id": "req-3"})
            recorder.settle()
        return root / "store", root / "requests.jsonl"


def test_the_version_that_answered_is_told_though_the_alias_names_another_one_now(logged: tuple[Path, Path]) -> None:
    url, log = logged
    with Store.open(url) as store:
        assert store.aliases("cars")["prod"] == 2
        (first,) = find_request(store, "req-1", [log])
    prod, one = first.versions
    assert (prod.task, prod.version, prod.depth, prod.aliases) == ("cars", 1, 1, ("prod",))
    assert prod == one
    assert (prod.confirmed, prod.published_by, first.status) == (True, "ann", 200)


def test_the_command_reads_compressed_logs_and_prints_a_row_for_each_version(
    logged: tuple[Path, Path], tmp_path: Path
) -> None:
    url, log = logged
    with gzip.open(tmp_path / "log.gz", "wb") as packed:
        packed.write(b"not json req-2\n" + log.read_bytes())
    done = call("which", "req-2", str(tmp_path / "log.gz"), "--format", "json", store=url)
    (request,) = done.json
    assert [(v["version"], v["aliases"]) for v in request["versions"]] == [(2, ["latest", "prod"]), (1, [])]
    assert request["line"]["replica"] == "r1"
    table = call("which", "req-2", str(log), store=url)
    assert [line.split()[4] for line in table.out.splitlines() if "cars" in line] == ["2", "1"]
    refused = call("which", "req-3", str(log), store=url)
    assert "TaskNotFoundError" in refused.out


def test_a_log_that_another_store_wrote_is_not_confirmed(logged: tuple[Path, Path], tmp_path: Path) -> None:
    url, log = logged
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    changed = {**lines[0], "answers": [{**lines[0]["answers"][0], "digest": "0" * 64}]}
    (tmp_path / "log").write_text(json.dumps(changed))
    done = call("which", "req-1", str(tmp_path / "log"), store=url)
    assert done.code == 0
    assert "not confirmed" in done.err


def test_an_unknown_request_and_a_missing_log_are_named(logged: tuple[Path, Path], tmp_path: Path) -> None:
    url, log = logged
    with Store.open(url) as store:
        with pytest.raises(NotFoundError, match="no request 'req-9'"):
            find_request(store, "req-9", [log])
        with pytest.raises(NotFoundError, match="no log"):
            find_request(store, "req-1", [tmp_path / "none"])
