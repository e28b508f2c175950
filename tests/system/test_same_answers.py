"""Every protocol gives every image of the demo's stream the same answer, to the last bit; so it is of a split alias."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from support.oracle import make_random_task
from support.processes import importing
from support.same_answers import Protocols, compare, connected, stream
from support.server_process import started
from support.servers import free_ports

from onetrunk.cli.demo import WHOLE
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

    protocols: Protocols
    url: str
    split: AliasSplit


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
    with started([*command, "--grpc-port", str(grpc)], http, env=importing()), ExitStack() as stack:
        yield Served(connected(http, grpc, stack), f"http://127.0.0.1:{http}", split)


def test_every_image_of_the_demos_stream_gets_rests_answer_over_every_protocol(served: Served) -> None:
    samples = stream()
    assert len(samples) == len(WHOLE.tasks) * WHOLE.images_per_task
    assert list(compare(served.protocols, samples)) == []


def test_a_key_gets_the_same_version_of_a_split_alias_over_every_protocol_and_from_the_client(served: Served) -> None:
    image = stream(1)[0].image
    with Client(served.url) as client:
        for number in range(10):
            key = f"user-{number}"
            answer = client.predict(served.split.ref, image, split_key=key)
            assert answer.version == served.split.choose(key)
            headers = {"X-Split-Key": key}
            assert served.protocols.rest(served.split.ref, image, headers).version == str(answer.version)
            assert served.protocols.differences(served.split.ref, image, **headers) == []


def test_the_comparison_finds_an_answer_of_another_version(served: Served) -> None:
    image = stream(1)[0].image
    first, second = (served.protocols.rest(f"{SPLIT}:{number}", image, {}) for number in (1, 2))
    assert first != second
