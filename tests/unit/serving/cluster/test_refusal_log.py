from __future__ import annotations

import json
import os
import time

import pytest

from serving.cluster.haproxy_config import REFUSALS, REFUSED
from serving.cluster.refusal_log import Refusal, RefusalLog, RefusalPipe, counts_of
from serving.telemetry.metrics_page import metrics_page
from serving.telemetry.refusals import REASONS, SETTING, read_refusals

WAITED = f"{REFUSED} 503 sQ http-app 5003 POST 2048 312 order-4711 /v1/predict/flowers"


def until(true) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_was_refused_is_counted_for_the_replicas_and_is_in_the_log(tmp_path, monkeypatch):
    log = tmp_path / "log"
    RefusalLog(tmp_path, str(log))
    (setting,) = counts_of(tmp_path).items()
    monkeypatch.setenv(*setting)
    assert set(read_refusals().values()) == {0}
    pipe = os.open(tmp_path / REFUSALS, os.O_WRONLY)
    os.write(pipe, f"{WAITED}\nServer http-app/replica is DOWN\n{WAITED[:20]}".encode())
    os.write(pipe, f"{WAITED[20:]}\n".encode())
    RefusalPipe(str(tmp_path / REFUSALS)).put(
        Refusal("408", "cR", "-", "8001", "POST", "10", "0", "-", "/v1/predict/a")
    )
    until(lambda: sum(read_refusals().values()) == 3)
    assert read_refusals()["503", "no_place"] == 2
    assert read_refusals()["408", "slow_client"] == 1
    until(lambda: log.exists() and log.read_text().count("\n") == 3)
    first, _, last = map(json.loads, log.read_text().splitlines())
    assert (first["request_id"], first["status"], first["ms"], first["reason"]) == ("order-4711", 503, 5003, "no_place")
    assert (first["received"], first["sent"], first["replica"]) == (2048, 312, "(ingress)")
    assert last["request_id"] is None
    page = metrics_page([], 0, "").body.decode()
    assert 'onetrunk_ingress_refused_total{reason="no_place",status="503"} 2.0' in page


@pytest.mark.parametrize(("status", "state", "backend", "expected"), [
    ("400", "PR", "http_frontend", ("400", "malformed")),
    ("408", "cR", "http_frontend", ("408", "slow_client")),
    ("503", "LR", "http-app", ("503", "no_chance")),
    ("503", "LR", "default_backend", ("503", "no_replica")),
    ("503", "SC", "http-app", ("503", "no_replica")),
    ("503", "SH", "http-app", ("503", "replica_lost")),
    ("503", "sH", "http-app", ("503", "replica_late")),
    ("404", "LR", "default_backend", ("404", "no_path")),
    ("500", "PR", "http-app", ("other", "other")),
])  # fmt: skip
def test_why_a_request_was_refused(status, state, backend, expected):
    refusal = Refusal.parse(f"{REFUSED} {status} {state} {backend} 0 GET 0 0 - /")
    assert refusal.series == expected
    assert refusal.series in REASONS


@pytest.mark.parametrize("line", [
    f"{REFUSED} 503 -- http-app 12 POST 1 1 id /v1/predict/a",  # a replica's own answer
    f"{REFUSED} 200 CD http-app 12 POST 1 1 id /v1/predict/a",  # the client left
    f"{REFUSED} -1 CR http-app 12 POST 1 1 id /v1/predict/a",
    "[NOTICE] something else",
    f"{REFUSED} 503",
])  # fmt: skip
def test_what_was_not_refused_by_the_ingress_does_not_count(line):
    assert Refusal.parse(line) is None


def test_a_path_of_any_kind_stays_one_line_of_json():
    line = Refusal.parse(f'{REFUSED} 503 sQ b 1 POST 1 1 id /v1/"\\ü x y').line()
    assert json.loads(line)["path"] == '/v1/"\\ü x y'


def test_where_the_ingress_is_anothers_nothing_is_claimed(monkeypatch):
    monkeypatch.delenv(SETTING, raising=False)
    assert read_refusals() == {}
