"""Requests for a split alias, over the API: who answers, what is compared unseen, and what a bad candidate costs."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from support.asgi_calls import Reply, ask, talk
from support.oracle import make_task, open_shop, png

from serving.http.api import Api, make_api
from serving.http.split_watch import judge_splits
from serving.runtime.predictor import Predictor
from serving.scheduling.scheduler import Scheduler
from serving.telemetry.log_sink import LogSink
from serving.telemetry.recorder import Recorder
from store.errors import DeadlineError
from store.records.evidence import Accuracy, Certificate, PruneIndex
from store.records.manifest import Card
from store.records.splits import AliasSplit, SplitOptions
from store.registry.splits import end_split, split_alias
from store.registry.store import Store

IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))
TASK, REF = "acme/cars", "acme/cars@prod"
DEPTHS = (3, 3, 1, 2)  # of the versions 1 to 4
ENCODED = base64.b64encode(IMAGE).decode()
INFERENCE = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [ENCODED]}]}


@dataclass
class Served:
    """An API over a store of four versions; `prod` names the first."""

    store: Store
    api: Api
    predictor: Predictor
    recorder: Recorder
    log: Path

    def predict(self, key: str | None = None, **given: Any) -> Reply:
        headers = {} if key is None else {"x-split-key": key}
        return ask(self.api, "POST", f"/v1/predict/{REF}", **{"body": IMAGE, "headers": headers, **given})

    def answering(self, keys: int = 200) -> list[int]:
        """The versions that answer the first keys."""
        return [self.predict(f"user-{number}").body["version"] for number in range(keys)]

    def lines(self) -> list[dict[str, Any]]:
        self.recorder.settle()
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]

    def split(self, shares: dict[int, float] | None = None, **options: Any) -> AliasSplit:
        made = split_alias(self.store, TASK, "prod", shares, options=SplitOptions(**options))
        self.until_seen(made)
        return made

    def until_seen(self, split: AliasSplit | None) -> None:
        while self.predictor.versions.find(REF).split != split:
            pass

    def parts(self) -> dict[tuple[str, str], Any]:
        self.recorder.settle()
        counted = self.recorder.counters.splits.series()
        return {(version, part): usage for (_, version, part), usage in counted.items()}

    def talk(self, count: int, until: Callable[[], bool]) -> list[Reply]:
        """Send requests with a key each, and wait for what goes on behind them."""

        async def converse() -> list[Reply]:
            url = f"/v1/predict/{REF}"
            sent = [
                await talk(self.api, "POST", url, body=IMAGE, headers={"x-split-key": f"user-{n}"})
                for n in range(count)
            ]
            while not until():
                await asyncio.sleep(0.005)
            return sent

        return asyncio.run(asyncio.wait_for(converse(), 30))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with open_shop(tmp_path / "shop") as shop:
        for number, depth in enumerate(DEPTHS):
            made = make_task(shop.backbone, tmp_path / str(number), depth=depth, classes=3, seed=number)
            index = PruneIndex(depth, shop.backbone.record.blocks, "given")
            card = Card(shop.backbone.record.id.fingerprint, index, Certificate(None, Accuracy(90, 100)))
            (made.folder / "onetrunk.json").write_bytes(card.to_json())
            shop.store.publish(TASK, made.folder)
        shop.store.set_alias(TASK, "prod", 1)
        with Predictor(shop.store, dtype="float32") as predictor:
            recorder = Recorder("r1", predictor.usage, log=LogSink(str(tmp_path / "log")))
            api = make_api(predictor, shop.store, keys=False, recorder=recorder)
            yield Served(shop.store, api, predictor, recorder, tmp_path / "log")


def test_each_key_keeps_its_version_which_the_answer_the_log_and_the_metrics_name(served: Served) -> None:
    split = served.split({1: 70, 2: 30})
    expected = [split.choose(f"user-{number}") for number in range(40)]
    assert served.answering(40) == expected
    assert served.answering(40) == expected
    lines = served.lines()
    assert [line["version"] for line in lines] == expected * 2
    assert {(line["version"], line["alias"], line["split"]) for line in lines} == {
        (1, "prod", "stable"),
        (2, "prod", "candidate"),
    }
    counted = Counter(expected)
    page = ask(served.api, "GET", "/metrics").content.decode()
    requests = {
        tuple(sample.labels[name] for name in ("alias", "version", "part", "outcome")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "onetrunk_split_requests_total"
    }
    assert requests[REF, "1", "stable", "answered"] == 2 * counted[1]
    assert requests[REF, "2", "candidate", "answered"] == 2 * counted[2]
    (row,) = (row for row in ask(served.api, "GET", "/v1/statistics").body["splits"] if row["version"] == "2")
    assert (row["alias"], row["part"], row["requests"], row["failed"]) == (REF, "candidate", 2 * counted[2], 0)


def test_without_a_key_the_requests_own_id_decides_so_that_the_log_tells_why(served: Served) -> None:
    split = served.split({1: 50, 2: 50})
    for number in range(20):
        reply = served.predict(headers={"x-request-id": f"order-{number}"})
        assert reply.body["version"] == split.choose(f"order-{number}")
    versions = {served.predict().body["version"] for _ in range(40)}
    assert versions == {1, 2}


def test_every_protocol_and_every_image_of_a_request_gets_the_same_version(served: Served) -> None:
    split = served.split({1: 50, 2: 50})
    two = b"".join(len(IMAGE).to_bytes(4, "little") + IMAGE for _ in range(2))
    for number in range(10):
        key = f"user-{number}"
        headers = {"x-split-key": key, "content-type": "application/vnd.onetrunk.images"}
        several = served.predict(body=two, headers=headers).body["answers"]
        assert {answer["version"] for answer in several} == {split.choose(key)}
        oip = ask(
            served.api, "POST", f"/v2/models/{REF}/infer", body=json.dumps(INFERENCE).encode(),
            headers={"x-split-key": key},
        )  # fmt: skip
        assert oip.body["model_version"] == str(split.choose(key))


def test_metadata_and_refs_without_the_alias_know_of_no_split(served: Served) -> None:
    served.split({1: 50, 2: 50})
    answered = {
        ask(served.api, "POST", f"/v1/predict/{TASK}:4", body=IMAGE, headers={"x-split-key": str(n)}).body["version"]
        for n in range(20)
    }
    assert answered == {4}
    assert {ask(served.api, "GET", f"/v2/models/{REF}/ready").body["version"] for _ in range(10)} == {"1"}


def test_a_shadow_is_compared_and_never_sent_and_one_that_is_damaged_costs_no_answer(served: Served) -> None:
    split = served.split(shadow=(4, 50))
    shadowed = sum(split.is_shadowed(f"user-{number}") for number in range(30))
    replies = served.talk(30, lambda: ("4", "shadow") in served.parts()
                          and served.parts()["4", "shadow"].requests == shadowed)  # fmt: skip
    assert {(reply.status, reply.body["version"]) for reply in replies} == {(200, 1)}
    counted = served.parts()["4", "shadow"]
    agree = served.predictor.predict(f"{TASK}:1", IMAGE).top(1)[0].label == (
        served.predictor.predict(f"{TASK}:4", IMAGE).top(1)[0].label
    )
    assert (counted.agreed, counted.disagreed) == ((shadowed, 0) if agree else (0, shadowed))
    damage(served.store, 2)
    again = served.split(shadow=(2, 100))
    replies = served.talk(5, lambda: ("2", "shadow") in served.parts() and served.parts()["2", "shadow"].requests == 5)
    assert {(reply.status, reply.body["version"]) for reply in replies} == {(200, 1)}
    assert served.parts()["2", "shadow"].failed == 5
    assert again.stable == 1


def damage(store: Store, number: int) -> None:
    blob = store.resolve(f"{TASK}:{number}").manifest.adapter.weights
    path = next(path for path in store.root.rglob("*") if path.is_file() and blob.sha256[2:] in path.name)
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))


def test_a_bad_candidate_is_rolled_back_by_its_rule_once_with_the_evidence(served: Served) -> None:
    damage(served.store, 2)
    split = served.split({1: 70, 2: 30}, rules=("errors>10%",), over=50)
    state = served.api.state.app_state
    failed, sent = 0, 0
    while served.store.split(TASK, "prod") is not None:
        failed += served.predict(f"user-{sent}").status == 500
        sent += 1
        asyncio.run(judge_splits(state))
        assert sent < 200
    assert failed == 6  # one more than ten in a hundred of fifty
    assert sum(split.choose(f"user-{number}") == 2 for number in range(sent)) == 6
    event = served.store.history(TASK)[-1]
    assert (event.action, event.version, event.alias) == ("split-rm", 1, "prod")
    assert event.actor is not None
    assert event.actor.startswith("server ")
    assert event.details is not None
    assert event.details["evidence"] == {
        "rule": "errors>10%", "version": 2, "part": "candidate", "requests": 6, "failed": 6, "disagreed": 0,
        "measured": 12.0,
    }  # fmt: skip
    served.until_seen(None)
    assert set(served.answering(50)) == {1}
    asyncio.run(judge_splits(state))
    assert served.store.history(TASK)[-1] == event
    page = ask(served.api, "GET", "/metrics").content.decode()
    ended = dict(re.findall(r'onetrunk_splits_ended_total\{.*outcome="(\w+)".*\} (\S+)', page))
    assert ended == {"rolled_back": "1.0", "promoted": "0.0"}


def test_a_candidate_that_keeps_its_rules_is_promoted(served: Served) -> None:
    served.split({1: 50, 2: 50}, rules=("errors>10%",), over=10, promote=True)
    while served.store.split(TASK, "prod") is not None:
        served.answering(10)
        asyncio.run(judge_splits(served.api.state.app_state))
    event = served.store.history(TASK)[-1]
    assert (event.action, event.version, served.store.aliases(TASK)["prod"]) == ("alias", 2, 2)
    assert event.details is not None
    assert event.details["evidence"]["failed"] == 0


def test_under_overload_the_shallower_version_answers_and_says_so(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.split(overload=3)
    assert served.predict().body == {**served.predict().body, "version": 1, "depth": 3}
    monkeypatch.setattr(Scheduler, "fullness", 0.9)
    answer = served.predict().body
    assert (answer["version"], answer["depth"], answer["degraded"]) == (3, 1, True)
    answered = ask(served.api, "POST", f"/v2/models/{REF}/infer", body=json.dumps(INFERENCE).encode()).body
    assert (answered["model_version"], answered["parameters"]) == ("3", {"depth": 1, "degraded": True})
    assert [line["split"] for line in served.lines()][-2:] == ["overload"] * 2
    assert served.recorder.counters.degraded == 2
    monkeypatch.undo()
    assert "degraded" not in served.predict().body


def test_an_answer_that_would_come_too_late_is_the_shallower_versions(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = served.predictor.queue
    submit = queue.submit_encoded

    def late(versions: Any, image: bytes, origin: Any) -> tuple[Future[Any], ...]:
        if versions[0].number == 1:
            raise DeadlineError("the answer would come 5 ms after its deadline")
        return submit(versions, image, origin)

    monkeypatch.setattr(queue, "submit_encoded", late)
    assert served.predict().status == 503
    served.split(overload=3)
    answer = served.predict()
    assert (answer.status, answer.body["version"], answer.body["degraded"]) == (200, 3, True)
    assert served.lines()[-1]["images"] == 1
    end_split(served.store, TASK, "prod")
    served.until_seen(None)
    assert served.predict().status == 503
