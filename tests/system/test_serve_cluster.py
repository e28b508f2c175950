"""`onetrunk serve` with several tasks to deal to its replicas, and on a Ray cluster that others run."""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.oracle import make_random_task, png
from support.processes import importing
from support.server_process import post_image
from support.servers import free_port, free_ports
from torch import full, uint8

from benchmarks.support.steady_load import wait_until
from serving.cluster.descendants import command_of, descendants
from serving.cluster.haproxy import find_haproxy
from serving.server import RunningServer, serve
from store.errors import ConflictError
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import encode, load_backbone

pytestmark = [pytest.mark.siege, pytest.mark.cluster, pytest.mark.skipif(sys.platform != "linux", reason="HAProxy")]
TASKS = [f"team/task-{index}" for index in range(8)]
IMAGE = png(full((64, 64, 3), 90, dtype=uint8))
TIMES = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, backbone = tmp_path_factory.mktemp("cluster"), load_backbone(DEFAULT_BACKBONE)
    with Store.open(root / "store", create=True) as opened:
        opened.add_backbone(backbone.record, encode(backbone))
        for index, task in enumerate(TASKS):
            made = make_random_task(backbone, root / task, index)
            opened.publish(task, made.folder, backbone=DEFAULT_BACKBONE, depth=made.depth)
    return root / "store"


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray that somebody else has started, named by RAY_ADDRESS."""
    (short_tmp / "token").write_text("0" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(short_tmp / "token"))
    port, client = free_ports(2)
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=8",
        "--node-ip-address=127.0.0.1", f"--temp-dir={short_tmp / 'r'}", "--include-dashboard=false",
        f"--ray-client-server-port={client}", "--disable-usage-stats",
    ]  # fmt: skip
    with subprocess.Popen(command, env=importing(), stdout=subprocess.DEVNULL) as process:
        try:
            assert wait_until(lambda: _listens(port), within_s=60) is not None
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def answered(server: RunningServer) -> Counter[str]:
    """Return how many requests each replica got, as HAProxy counts them."""
    commands = [command_of(pid) for pid in descendants(server.process.pid)]
    (config, *_) = (Path(each[each.index("-f") + 1]) for each in commands if each[:1] and each[0].endswith("/haproxy"))
    (path,) = config.parent.glob("**/admin.sock")
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(path))
        admin.sendall(b"show stat\n")
        text = b"".join(iter(lambda: admin.recv(1 << 16), b"")).decode()
    counts: Counter[str] = Counter()
    for row in csv.DictReader(text.removeprefix("# ").splitlines()):
        if row["type"] == "2" and row["status"].startswith("UP"):
            counts[row["svname"]] += int(row["stot"])  # a replica is in a backend of predictions and in one of the rest
    return counts


@pytest.mark.skipif(find_haproxy() is None, reason="Ray's own proxy has no affinity")
def test_with_affinity_a_task_is_answered_by_one_replica_however_it_is_named_and_both_have_some(store):
    with serve(store, port=free_port(), replicas=2, affinity=True) as server:
        assert wait_until(lambda: len(answered(server)) >= 2, within_s=60) is not None
        time.sleep(3)  # the last reload of HAProxy, with which it counts anew, is over
        of_tasks = {}
        for task in TASKS:
            before = answered(server)
            for _ in range(TIMES):
                assert post_image(f"{server.url}/v1/predict/{task}", IMAGE)[0] == 200
                assert post_image(f"{server.url}/v1/predict/{task}:1", IMAGE)[0] == 200
                assert post_image(f"{server.url}/v1/predict?ref={task.replace('/', '%2F')}", IMAGE)[0] == 200
            of_tasks[task] = answered(server) - before
        assert {len(replicas) for replicas in of_tasks.values()} == {1}, of_tasks
        assert len(set().union(*of_tasks.values())) == 2


def test_on_a_cluster_two_servers_answer_and_the_end_of_one_is_not_the_end_of_the_other(store, cluster):
    with serve(store, port=free_port(), replicas=1, name="one", prefix="/one") as one:
        with pytest.raises(ConflictError, match="name"), serve(store, port=free_port(), name="one", prefix="/other"):
            pass
        with pytest.raises(ConflictError, match="prefix"), serve(store, port=free_port(), name="two", prefix="/one"):
            pass
        with serve(store, port=free_port(), replicas=2, name="two", prefix="/two") as two:
            for server, prefix in ((one, "/one"), (two, "/two")):
                for task in TASKS:
                    status, answer = post_image(f"{server.url}{prefix}/v1/predict/{task}", IMAGE)
                    assert (status, answer["task"]) == (200, task)
            assert post_image(f"{two.url}/two/v1/predict/none", IMAGE)[0] == 404
        assert post_image(f"{one.url}/one/v1/predict/{TASKS[0]}", IMAGE)[0] == 200
    assert _listens(int(cluster.rpartition(":")[2]))
