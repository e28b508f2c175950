"""A server whose replicas are killed, stopped, added and removed, and which is stopped itself, all under load.

Starts `onetrunk serve` on --tasks random tasks of the packaged backbone with --replicas replicas behind HAProxy, and
--clients closed-loop clients, each with one connection. Kills a replica (`kill -9`) --kills times, and counts the
predictions that fail and the seconds until as many replicas as before answer. Stops one (SIGSTOP), and counts the
seconds until another is in its place. On a second server with `--replicas 1:4`, the load adds replicas and its end
removes them. Last, SIGINT under load: the seconds until nothing of the server is left, and how each request ended.
Prints a table; JSON in benchmarks/results/faults.json.

    python -m benchmarks.serving.faults
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import make_parser
from benchmarks.support.processes import ROOT
from benchmarks.support.steady_load import BROKEN, SteadyLoad, replicas_of, wait_until
from benchmarks.support.tasks import publish_lora
from serving.port import free_port
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import encode, load_backbone

READY_S, GONE_S = 120.0, 30.0


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    url: str
    ready_s: float


@contextmanager
def served(store: Path, *options: str) -> Iterator[Served]:
    """Run `onetrunk serve` until the block ends."""
    port = free_port()
    options = ("--store", str(store), "--port", str(port), "--log", "none", *options)
    command = [sys.executable, "-m", "onetrunk", "serve", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("ready"):
                break
        assert process.poll() is None, "".join(lines)
        yield Served(process, f"http://127.0.0.1:{port}", time.monotonic() - start)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(GONE_S)


def kill(server: Served, load: SteadyLoad, kills: int, replicas: int) -> dict[str, Any]:
    back, failed = [], []
    for _ in range(kills):
        before = load.failed()
        victim = replicas_of(server.process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        time.sleep(0.1)
        back.append(wait_until(lambda: len(answering(server, replicas)) >= replicas, within_s=60))
        time.sleep(1)
        failed.append(load.failed() - before)
    return {"failed": failed, "back_s": back, "endings": {str(how): count for how, count in load.counts().items()}}


def stop(server: Served, load: SteadyLoad, replicas: int) -> dict[str, Any]:
    before, victim = load.failed(), replicas_of(server.process.pid)[0]
    os.kill(victim, signal.SIGSTOP)
    replaced = wait_until(
        lambda: victim not in replicas_of(server.process.pid) and len(answering(server, replicas)) >= replicas,
        within_s=60,
    )
    endings = {str(how): count for how, count in load.counts().items()}
    return {"replaced_s": replaced, "failed": load.failed() - before, "endings": endings}


def answering(server: Served, replicas: int) -> Sequence[int]:
    """Return the replicas that listen for HTTP, which they do once they can answer."""
    found = replicas_of(server.process.pid)
    return [pid for pid in found if _listens(pid)] if len(found) >= replicas else []


def _listens(pid: int) -> bool:
    """Return whether the process listens on a port of those that replicas answer HTTP at."""
    inodes = set(_descriptors(pid))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        port = int(fields[1].rpartition(":")[2], 16)
        if fields[3] == "0A" and 30000 <= port < 31000 and f"socket:[{fields[9]}]" in inodes:
            return True
    return False


def _descriptors(pid: int) -> Iterator[str]:
    """Yield what the process has open; one that ends has nothing more."""
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield str(path.readlink())


def scale(store: Path, load_of: Any, most: int) -> dict[str, Any]:
    """Let the load add replicas, and its end remove them."""
    with served(store, "--replicas", f"1:{most}") as server:
        with load_of(server, 32) as load:
            grown = wait_until(lambda: len(answering(server, most)) >= most, within_s=90)
            time.sleep(2)
        with load_of(server, 1) as light:
            shrunk = wait_until(lambda: len(replicas_of(server.process.pid)) == 1, within_s=120)
            time.sleep(1)
        return {
            "grown_s": grown,
            "shrunk_s": shrunk,
            "requests": len(load.endings) + len(light.endings),
            "lost": load.failed() + light.failed(),
        }


def end(server: Served, load: SteadyLoad) -> dict[str, Any]:
    """Stop the server under load, as Ctrl-C does."""
    pids = [server.process.pid, *replicas_of(server.process.pid)]
    done = len(load.endings)
    start = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    server.process.wait(GONE_S)
    seconds = time.monotonic() - start
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    endings: dict[str, int] = {}
    for ending in load.endings[done:]:
        endings[str(ending.how)] = endings.get(str(ending.how), 0) + 1
    return {"seconds": seconds, "processes_left": len(left), "endings": endings}


def make_store(folder: Path, tasks: int) -> tuple[Path, list[str]]:
    backbone = load_backbone(DEFAULT_BACKBONE)
    names = [f"task-{index}" for index in range(tasks)]
    with Store.open(folder / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for index, name in enumerate(names):
            publish_lora(store, name, backbone, rank=4, depth=4 + index % 9, classes=10, seed=index)
    return folder / "store", names


def jpeg() -> bytes:
    out = BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def main() -> None:
    parser = make_parser(__doc__, out="faults.json")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--most", type=int, default=4, help="replicas that the load may add; 1 leaves that part out")
    parser.add_argument("--quick", action="store_true", help="one kill, and no replicas added")
    options = parser.parse_args()
    if options.quick:
        options.kills, options.most = 1, 1
    with tempfile.TemporaryDirectory() as folder:
        store, names = make_store(Path(folder), options.tasks)
        report = measure(options, store, names)
    conclude(options.out, {**machine(), **report}, goals(report))


def measure(options: argparse.Namespace, store: Path, names: list[str]) -> dict[str, Any]:
    image = jpeg()

    def load_of(server: Served, clients: int) -> SteadyLoad:
        return SteadyLoad(server.url, names, image, clients)

    report: dict[str, Any] = {key: getattr(options, key) for key in ("tasks", "clients", "replicas", "kills", "most")}
    with served(store, "--replicas", str(options.replicas)) as server:
        report["ready_s"] = server.ready_s
        wait_until(lambda: len(answering(server, options.replicas)) >= options.replicas, within_s=60)
        with load_of(server, options.clients) as load:
            time.sleep(2)
            report["kill"] = kill(server, load, options.kills, options.replicas)
            report["stop"] = stop(server, load, options.replicas)
            time.sleep(2)
            report["end"] = end(server, load)
    if options.most > 1:
        report["scale"] = scale(store, load_of, options.most)
    return report


def goals(report: dict[str, Any]) -> list[Goal]:
    never = float("inf")
    killed, stopped, ended = report["kill"], report["stop"], report["end"]
    found = [
        Goal("predictions failed, kill -9", sum(killed["failed"]), 0, most=True),
        Goal("back after kill -9, s, median", statistics.median(s or never for s in killed["back_s"]), 5, most=True),
        Goal("replaced after SIGSTOP, s", stopped["replaced_s"] or never, 15, most=True),
        Goal("predictions failed, SIGSTOP", stopped["failed"], 0, most=True),
        Goal("Ctrl-C under load, s", ended["seconds"], 4, most=True),
        Goal("admitted and lost, Ctrl-C", ended["endings"].get(BROKEN, 0), 0, most=True),
        Goal("answered 404, Ctrl-C", ended["endings"].get("404", 0), 0, most=True),
        Goal("processes left", ended["processes_left"], 0, most=True),
    ]
    if "scale" in report:
        found.append(Goal("requests lost, 1 to 4 to 1 replicas", report["scale"]["lost"], 0, most=True))
    return found


if __name__ == "__main__":
    main()
