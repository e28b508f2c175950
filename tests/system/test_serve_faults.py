"""What a server does when its replicas die or stop, when it is stopped itself, and what it leaves behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.oracle import make_random_task, png
from support.server_process import post_image
from support.servers import free_port
from torch import full, uint8

from benchmarks.support.steady_load import REFUSED, SteadyLoad, processes_with, replicas_of, wait_until
from serving.cluster.descendants import command_of, parent_of
from serving.cluster.haproxy import find_haproxy
from serving.cluster.listeners import Listener, listeners_of_server
from serving.server import serve
from store.errors import BackboneNotFoundError, ServerError
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import encode, load_backbone

pytestmark = [
    pytest.mark.siege,
    pytest.mark.cluster,
    pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc"),
]
INGRESSES = ["haproxy", "python"] if find_haproxy() else ["python"]
IMAGE = png(full((64, 64, 3), 90, dtype=uint8))
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    root, backbone = tmp_path_factory.mktemp("faults"), load_backbone(DEFAULT_BACKBONE)
    with Store.open(root / "store", create=True) as opened:
        opened.add_backbone(backbone.record, encode(backbone))
        made = make_random_task(backbone, root / "task", 0)
        opened.publish("flowers", made.folder, backbone=DEFAULT_BACKBONE, depth=made.depth)
    return root / "store"


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder for temporary files in which nothing but the test's server writes."""
    folder = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def answering(url: str) -> list[Listener]:
    """Return where the replicas that answer listen for HAProxy."""
    found = listeners_of_server(int(url.rpartition(":")[2]))
    return [each for each in found if each.process.startswith("ray::ServeReplica") and 30000 <= each.port < 31000]


@pytest.mark.skipif(find_haproxy() is None, reason="Ray's own proxy does not ask another replica")
def test_no_prediction_fails_when_a_replica_is_killed_or_stopped_and_another_takes_its_place(store):
    with serve(store, port=free_port(), replicas=2) as server:
        with SteadyLoad(server.url, ["flowers"], IMAGE, clients=4) as load:
            for number in (signal.SIGKILL, signal.SIGSTOP):
                assert wait_until(lambda: len(answering(server.url)) == 2, within_s=60) is not None
                time.sleep(3)  # HAProxy has asked both how they are
                victim = replicas_of(server.process.pid)[0]
                os.kill(victim, number)
                assert wait_until(lambda gone=victim: gone not in replicas_of(server.process.pid), within_s=60), number
            assert wait_until(lambda: len(answering(server.url)) == 2, within_s=60) is not None
        assert set(load.counts()) == {200}


def test_replicas_are_forks_of_one_process_and_start_without_it_where_it_has_ended(store):
    with serve(store, port=free_port(), replicas=1) as server:
        (replica,) = replicas_of(server.process.pid)
        forker = parent_of(replica)
        assert "serving.cluster.fork_server" in command_of(forker)
        os.kill(forker, signal.SIGKILL)
        os.kill(replica, signal.SIGKILL)
        assert wait_until(lambda: set(replicas_of(server.process.pid)) - {replica}, within_s=60) is not None
        url = f"{server.url}/v1/predict/flowers"
        assert wait_until(lambda: post_image(url, IMAGE)[0] == 200, within_s=60) is not None


def test_a_worker_that_is_lost_before_it_registers_with_ray_is_asked_for_again_in_seconds(store):
    with serve(store, port=free_port(), replicas=1) as server:
        (replica,) = replicas_of(server.process.pid)
        forker = parent_of(replica)
        os.kill(forker, signal.SIGSTOP)
        os.kill(replica, signal.SIGKILL)
        time.sleep(4)  # Ray has asked for another worker, and nobody else knows of it
        os.kill(forker, signal.SIGKILL)
        url = f"{server.url}/v1/predict/flowers"
        assert wait_until(lambda: post_image(url, IMAGE)[0] == 200, within_s=24) is not None  # it took 40 s


@pytest.mark.parametrize("ingress", INGRESSES)
def test_a_stopped_server_answers_what_it_admitted_says_503_to_the_rest_and_never_404(store, ingress):
    with SteadyLoadOf(store, ingress) as (load, stop):  # no connection breaks that had sent a request
        time.sleep(2)
        stop()
        time.sleep(0.5)
    counts = load.counts()
    assert counts[200] > 10
    assert set(counts) <= {200, 503, REFUSED}, counts


class SteadyLoadOf:
    """A served store under load, and a way to stop the server while the load goes on."""

    def __init__(self, store: Path, ingress: str) -> None:
        self._server = serve(store, port=free_port(), replicas=1, ingress=ingress)

    def __enter__(self) -> tuple[SteadyLoad, object]:
        running = self._server.__enter__()
        self._load = SteadyLoad(running.url, ["flowers"], IMAGE, clients=4)
        self._load.__enter__()
        return self._load, lambda: self._server.__exit__(None, None, None)

    def __exit__(self, *exc: object) -> None:
        self._load.__exit__(None, None, None)


@pytest.mark.parametrize("ingress", INGRESSES)
def test_everything_listens_on_the_loopback_interface_but_the_calls_between_deployments(store, ingress):
    with serve(store, port=free_port(), replicas=1, ingress=ingress) as server:
        found = listeners_of_server(int(server.url.rpartition(":")[2]))
        beyond = [listener for listener in found if listener.host != "127.0.0.1"]
        assert len(found) > 5
        assert [listener.process for listener in beyond] == ["ray::ServeReplica:onetrunk:Replica"], beyond
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in replicas_of(server.process.pid)} == {os.nice(0)}


@pytest.mark.parametrize("ingress", INGRESSES)
def test_two_servers_run_side_by_side_each_under_its_prefix(store, ingress):
    with (
        serve(store, port=free_port(), replicas=1, ingress=ingress) as one,
        serve(store, port=free_port(), replicas=1, ingress=ingress, prefix="/vision", name="other") as other,
    ):
        assert post_image(f"{one.url}/v1/predict/flowers", IMAGE)[0] == 200
        assert post_image(f"{other.url}/vision/v1/predict/flowers", IMAGE)[0] == 200


def test_a_replica_that_cannot_start_is_reported_with_its_reason(store):
    with (
        pytest.raises((ServerError, BackboneNotFoundError), match="nothing"),
        serve(store, port=free_port(), replicas=1, backbone="nothing"),
    ):
        pass


def start(store: Path, tmp: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onetrunk", "serve", "--store", str(store), "--port", str(free_port())]
    environment = {**os.environ, "TMPDIR": str(tmp), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_at_any_moment_of_the_start_leaves_no_process_and_no_file(store, short_tmp, seed, number):
    process = start(store, short_tmp)
    threading.Event().wait(random.Random(f"{seed}{number}").uniform(0.1, 9))
    process.send_signal(number)
    process.wait(20)
    assert wait_until(lambda: not processes_with(f"TMPDIR={short_tmp}"), within_s=20) is not None
    assert list(short_tmp.glob("ot-*")) == []


def test_an_address_of_no_ray_is_named_in_one_line_within_ten_seconds(store):
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "onetrunk", "serve", "--store", str(store), "--port", str(free_port())]
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    begin = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert ended.returncode == 1
    said = ended.stderr.strip().splitlines()[-1]
    assert f"RAY_ADDRESS={address}" in said
    assert time.monotonic() - begin < 10
