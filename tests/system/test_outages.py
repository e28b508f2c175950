"""A real server under load while its store is away, slow, full or another one: what is in memory goes on."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from support.http_server import HttpServer, Load, http_server
from support.oracle import make_random_task, png
from support.processes import stopped
from support.servers import Bucket, Postgres
from support.tcp_relay import relay

from store.maintenance.rebuild import rebuild
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import encode, load_backbone

RESIDENT, COLD, LATER = "flowers", "birds", "cars"
SLOWEST_S = 1.0  # of a prediction for a task in memory, on a machine that others use too
HOLD = """
import sys, time
from store.registry.store import Store
store = Store.open(sys.argv[1], catalogue=(sys.argv[2:] or [None])[0])
with store.catalogue.database.write():
    print("in a transaction", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def image() -> bytes:
    return png(torch.randint(0, 256, (80, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of three tasks, on the packaged backbone, and the tasks' own folders."""
    root = tmp_path_factory.mktemp("outages")
    backbone = load_backbone(DEFAULT_BACKBONE)
    for seed, task in enumerate((RESIDENT, COLD, LATER)):
        made = make_random_task(backbone, root / task, seed)
        (root / task / "depth").write_text(str(made.depth))
    fill(root / "store", root)
    return root


def fill(url: str | Path, made: Path, *, catalogue: str | None = None) -> None:
    backbone = load_backbone(DEFAULT_BACKBONE)
    with Store.open(url, create=True, catalogue=catalogue) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for task in (RESIDENT, COLD, LATER):
            depth = int((made / task / "depth").read_text())
            store.publish(task, made / task, backbone=DEFAULT_BACKBONE, depth=depth)
        store.publish(
            RESIDENT, made / LATER, backbone=DEFAULT_BACKBONE, depth=int((made / LATER / "depth").read_text())
        )
        store.set_alias(RESIDENT, "latest", 1)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "store", tmp_path / "store"))


@pytest.fixture
def server(root: Path, image: bytes) -> Iterator[HttpServer]:
    with http_server(str(root), image) as server:
        yield server


def stopped_writer(
    url: str | Path, catalogue: str | None = None
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Stop another process within a transaction on the catalogue."""
    return stopped(HOLD, str(url), *([catalogue] if catalogue else []), says="in a transaction")


def until(condition, *, limit_s: float = 20.0) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + limit_s
        time.sleep(0.02)
    return time.monotonic() - start


def leased(url: str | Path, catalogue: str | None = None) -> set[str]:
    with Store.open(url, catalogue=catalogue) as store:
        return {version for lease in store.leases() for version in store.leased_versions(lease)}


def check_refused(server: HttpServer, ref: str, *secrets: str) -> None:
    """Assert that the answer is 503, asks to come back, and names no place."""
    answer = server.predict(ref)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1"), answer
    assert "try again" in str(answer.body["message"])
    assert not any(secret in str(answer.body) for secret in (*secrets, "/"))


def test_a_writer_that_stands_still_stops_no_task_and_no_load(server: HttpServer, root: Path) -> None:
    expected = server.predict(RESIDENT)
    until(lambda: leased(root) == {f"{RESIDENT}:1"})
    with stopped_writer(root), Load(server, RESIDENT) as load:
        time.sleep(1)
        cold = server.predict(COLD)  # waits a moment for its lease, then is served without one
        assert (cold.status, cold.seconds < 5) == (200, True)
        assert server.predict(LATER).seconds < 3
        time.sleep(1)
    load.check(expected, slowest_s=SLOWEST_S)
    until(lambda: leased(root) == {f"{RESIDENT}:1", f"{COLD}:1", f"{LATER}:1"})


def test_a_store_that_is_moved_away_and_back(server: HttpServer, root: Path, tmp_path: Path) -> None:
    expected = server.predict(RESIDENT)
    with Load(server, RESIDENT) as load:
        shutil.move(root, tmp_path / "away")
        time.sleep(1)
        check_refused(server, COLD, str(tmp_path))
        assert server.ask("GET", "/v1/tasks").status == 503
        assert not root.exists()
        shutil.move(tmp_path / "away", root)
        assert server.until(COLD, 200) < 5
        with Store.open(root) as store:
            store.set_alias(RESIDENT, "latest", 2)
        moved = until(lambda: server.predict(RESIDENT).body["version"] == 2)
        assert moved < 2
    assert {answer.status for answer in load.answers} == {200}
    first = [answer for answer in load.answers if answer.body["version"] == 1]
    assert all(answer.body == expected.body for answer in first)


def test_a_catalogue_that_is_rebuilt_beside_the_server_is_followed(
    server: HttpServer, root: Path, tmp_path: Path
) -> None:
    expected = server.predict(RESIDENT)
    with Load(server, RESIDENT) as load:
        broken = tmp_path / "broken"
        broken.mkdir()
        for file in root.glob("catalogue.sqlite*"):
            file.rename(broken / file.name)
        time.sleep(0.5)
        check_refused(server, COLD, str(tmp_path))
        rebuild(root)
        server.until(COLD, 200)
    load.check(expected, slowest_s=SLOWEST_S)
    with Store.open(root) as store:
        store.set_alias(RESIDENT, "latest", 2)
    assert until(lambda: server.predict(RESIDENT).body["version"] == 2) < 2
    until(lambda: f"{RESIDENT}:2" in leased(root))


def test_a_full_disk_takes_no_lease_and_every_request(server: HttpServer, root: Path) -> None:
    expected = server.predict(RESIDENT)
    server.limit_files(1)
    with Load(server, RESIDENT) as load:
        assert server.predict(COLD).status == 200
        assert server.ask("GET", "/v1/tasks").status == 200
        time.sleep(1)
    load.check(expected, slowest_s=SLOWEST_S)
    server.limit_files(1 << 40)
    until(lambda: f"{COLD}:1" in leased(root))


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=["forward", "back"])
def test_a_clock_that_is_stepped_by_two_hours(server: HttpServer, root: Path, number: signal.Signals) -> None:
    expected = server.predict(RESIDENT)
    until(lambda: leased(root) == {f"{RESIDENT}:1"})
    with Load(server, RESIDENT) as load:
        server.process.send_signal(number)
        time.sleep(1.5)
        assert server.predict(COLD).status == 200
        with Store.open(root) as store:
            store.set_alias(RESIDENT, "latest", 2)
        assert until(lambda: server.predict(RESIDENT).body["version"] == 2) < 2
    assert {answer.status for answer in load.answers} == {200}
    assert all(answer.body == expected.body for answer in load.answers if answer.body["version"] == 1)


def test_a_bucket_that_is_cut_off(made: Path, image: bytes, bucket_server: Bucket, tmp_path: Path) -> None:
    url, catalogue = bucket_server.prefix(), f"sqlite:///{tmp_path / 'names.sqlite'}"
    fill(url, made, catalogue=catalogue)
    with relay(urlsplit(bucket_server.environment["AWS_ENDPOINT_URL"]).port or 0) as wire:
        address = f"http://127.0.0.1:{wire.port}"
        with http_server(url, image, catalogue=catalogue, AWS_ENDPOINT_URL=address) as server:
            expected = server.predict(RESIDENT)
            with Load(server, RESIDENT) as load:
                wire.cut()
                check_refused(server, COLD, url)
                wire.mend()
                assert server.until(COLD, 200) < 20
            load.check(expected, slowest_s=SLOWEST_S)


def test_a_postgresql_that_is_restarted(made: Path, image: bytes, own_postgres: Postgres, tmp_path: Path) -> None:
    root, catalogue = tmp_path / "store", own_postgres.database()
    fill(root, made, catalogue=catalogue)
    with http_server(str(root), image, catalogue=catalogue) as server:
        expected = server.predict(RESIDENT)
        with Load(server, RESIDENT) as load:
            own_postgres.stop()
            time.sleep(1)
            check_refused(server, COLD, "127.0.0.1", str(tmp_path))
            own_postgres.start()
            assert server.until(COLD, 200) < 10
            with Store.open(root, catalogue=catalogue) as store:
                store.set_tag(RESIDENT, "a", "b")
        load.check(expected, slowest_s=SLOWEST_S)
        until(lambda: leased(root, catalogue) == {f"{RESIDENT}:1", f"{COLD}:1"})


def test_a_postgresql_that_takes_questions_and_answers_none(
    made: Path, image: bytes, own_postgres: Postgres, tmp_path: Path
) -> None:
    root, catalogue = tmp_path / "store", own_postgres.database()
    fill(root, made, catalogue=catalogue)
    with relay(own_postgres.port) as wire:
        through = catalogue.replace(f":{own_postgres.port}/", f":{wire.port}/")
        with http_server(str(root), image, catalogue=through) as server:
            expected = server.predict(RESIDENT)
            with Load(server, RESIDENT) as load:
                wire.freeze()
                time.sleep(1)
                check_refused(server, COLD, "127.0.0.1", str(tmp_path))
                wire.mend()
                assert server.until(COLD, 200) < 10
            load.check(expected, slowest_s=SLOWEST_S)
