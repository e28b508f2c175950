"""Machines of a test's own on this one: network namespaces on one bridge, each with its processes, name and files.

All of it is in namespaces made here, so no address of this machine or beyond it is used. Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SUBNET = "10.77.0"
HUB = f"{SUBNET}.1"
OWN = ("/run/onetrunk", "/dev/shm")
"""Folders that each node has for itself."""


def why_no_nodes() -> str | None:
    """Return why no node can be made here, None where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "network namespaces need iproute2 and util-linux"
    name = f"ot{secrets.token_hex(4)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    ip("netns", "del", name)
    return None


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Node:
    """A machine with an address; what runs on it ends with it."""

    name: str
    address: str
    namespace: str
    hub: str
    hosts: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start the machine with this as its only process; it has its own folders, and nobody else's are in sight."""
        own = " && ".join(f"mkdir -p {folder} && mount -t tmpfs tmpfs {folder}" for folder in OWN)
        script = f'{own} && mount --bind {self.hosts} /etc/hosts && hostname {self.name} && exec "$@"'
        isolated = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        inside = [*isolated, "sh", "-c", script, "sh", *command]
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *inside], env=dict(env), stdout=output, stderr=output,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def first_process(self) -> int:
        """Return the process that is the machine's first, as this machine numbers it."""
        (process,) = self.processes
        return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])

    def cut_power(self) -> None:
        """End all at once, and without a word to its peers: no connection of it is closed."""
        self._link("down")
        self.stop()

    def restore_link(self) -> None:
        self._link("up")

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def _link(self, state: str) -> None:
        ip("-n", self.hub, "link", "set", f"to-{self.name}", state)


@dataclass(frozen=True)
class Network:
    """A bridge in a namespace of its own, where the test's servers and clients are, and the nodes on it."""

    hub: str
    nodes: Sequence[Node]

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs on the hub."""
        return ["ip", "netns", "exec", self.hub, *command]


@contextlib.contextmanager
def network(names: Sequence[str], *, services: Sequence[str] = ()) -> Iterator[Network]:
    """Make a node of each name, which knows the others and, at the hub's address, the services by name."""
    tag = f"ot{secrets.token_hex(3)}"
    hub = f"{tag}-hub"
    addresses = {name: f"{SUBNET}.{index + 2}" for index, name in enumerate(names)}
    with tempfile.TemporaryDirectory(prefix="onetrunk-nodes-") as folder, contextlib.ExitStack() as stack:
        hosts = Path(folder) / "hosts"
        known = {"localhost": "127.0.0.1", **dict.fromkeys(services, HUB), **addresses}
        hosts.write_text("".join(f"{address} {name}\n" for name, address in known.items()))
        _make_namespace(hub, stack)
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "addr", "add", f"{HUB}/24", "dev", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        nodes = []
        for name, address in addresses.items():
            namespace = f"{tag}-{name}"
            _make_namespace(namespace, stack)
            ip("link", "add", f"to-{name}", "netns", hub, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            ip("-n", hub, "link", "set", f"to-{name}", "master", "bridge", "up")
            ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            node = Node(name, address, namespace, hub, hosts)
            stack.callback(node.stop)
            nodes.append(node)
        yield Network(hub, nodes)


def _make_namespace(name: str, stack: contextlib.ExitStack) -> None:
    ip("netns", "add", name)
    stack.callback(ip, "netns", "del", name)
    ip("-n", name, "link", "set", "lo", "up")
