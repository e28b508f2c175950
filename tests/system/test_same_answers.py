"""Every protocol gives every image of the demo's stream the same answer, to the last bit; so it is of a split alias."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.oracle import make_random_task
from support.processes import importing
from support.same_answers import Protocols, compare, connected, stream
from support.server_process import started
from support.servers import free_ports

from onetrunk.cli.demo import QUICK, WHOLE, Plan
from serving.client import Client
from store.records.backbone import DEFAULT_BACKBONE
from store.records.splits import AliasSplit
from store.registry.splits import split_alias
from store.registry.store import Store
from store.weights.backbones import encode, load_backbone

SPLIT = WHOLE.tasks[0]


@dataclass(frozen=True)
class Served:
    """A server of the packaged backbone as `onetrunk serve` runs it, and an alias of a task that it splits."""

    http: int
    grpc: int
    split: AliasSplit
    image: bytes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("same")
    backbone = load_backbone(DEFAULT_BACKBONE)
    with Store.open(folder / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for number, task in enumerate([*WHOLE.tasks, SPLIT]):
            made = make_random_task(backbone, folder / str(number), number)
            store.publish(task, made.folder, backbone=DEFAULT_BACKBONE, depth=made.depth)
        store.set_alias(SPLIT, "prod", 1)
        split = split_alias(store, SPLIT, "prod", {1: 50, 2: 50})
    http, grpc = free_ports(2)
    command = [sys.executable, "-m", "support.plain_server", str(folder / "store"), str(http), "--dtype", "auto"]
    with started([*command, "--grpc-port", str(grpc)], http, env=importing()):
        yield Served(http, grpc, split, stream(QUICK)[0].image)


@pytest.fixture
def protocols(served: Served) -> Iterator[Protocols]:
    with connected(served.http, served.grpc) as made:
        yield made


@pytest.mark.parametrize("plan", [QUICK, pytest.param(WHOLE, marks=pytest.mark.siege)], ids=["quick", "whole"])
def test_every_image_of_the_demos_stream_gets_rests_answer_over_every_protocol(served: Served, plan: Plan) -> None:
    samples = stream(plan)
    assert len(samples) == len(plan.tasks) * plan.images_per_task
    with connected(served.http, served.grpc) as protocols:
        assert list(compare(protocols, samples)) == []


def test_a_key_gets_the_same_version_of_a_split_alias_over_every_protocol_and_from_the_client(
    served: Served, protocols: Protocols
) -> None:
    ref, image = served.split.ref, served.image
    with Client(f"http://127.0.0.1:{served.http}") as client:
        for number in range(10):
            key = f"user-{number}"
            version = client.predict(ref, image, split_key=key).version
            assert version == served.split.choose(key)
            assert protocols.rest(ref, image, {"X-Split-Key": key}).version == str(version)
            assert protocols.differences(ref, image, **{"X-Split-Key": key}) == []


def test_the_comparison_finds_an_answer_of_another_version(served: Served, protocols: Protocols) -> None:
    first, second = (protocols.rest(f"{SPLIT}:{number}", served.image, {}) for number in (1, 2))
    assert first != second
