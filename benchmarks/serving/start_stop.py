"""Start to the first answer, and Ctrl-C under load to the end of the process, against another commit.

`onetrunk serve` of this tree and of a worktree of --against take turns, each on a store that its own code made. Ready
is the first prediction that is answered. Then 16 clients ask in a closed loop, and after --seconds the server gets
SIGINT, as from Ctrl-C. What was sent before the signal must be answered; what comes later may be refused, but not with
404, as the tasks exist. Prints a table; JSON in benchmarks/results/start_stop.json.

    python -m benchmarks.serving.start_stop
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from support.servers import free_port

from benchmarks.serving.rivals.workload import photo
from benchmarks.support.figures import Goal, conclude, machine, spread, spread_text
from benchmarks.support.load.plan import Load, Plan, post, run_load, start_load
from benchmarks.support.options import make_parser
from benchmarks.support.processes import ROOT

CONNECTIONS, TASKS, SIDE = 16, 4, 64
START_S, STOP_S, BEYOND_S = 120.0, 120.0, 3.0
STOP_GOAL_S = 4.0
FAILED = 0  # the status of a request that got no answer
MAKE_STORE = """
import sys
from benchmarks.support.tasks import publish_lora
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import encode, load_backbone
backbone = load_backbone(DEFAULT_BACKBONE)
with Store.open(sys.argv[1], create=True) as store:
    store.add_backbone(backbone.record, encode(backbone))
    for index in range(int(sys.argv[2])):
        publish_lora(store, f"task-{index}", backbone, depth=4 + index, classes=10, seed=index)
"""


@dataclass(frozen=True)
class Run:
    """Seconds to the first answer and from the signal to the end, and requests while it stopped.

    `lost` were sent before the signal and not answered; `not_found` got 404, `refused` 503, `reset` nothing, later.
    """

    ready_s: float
    stop_s: float
    lost: int
    not_found: int
    refused: int
    reset: int


def main() -> None:
    options = parse()
    runs: dict[str, list[Run]] = {"this tree": [], options.against: []}
    with tempfile.TemporaryDirectory() as folder, worktree(options.against) as other:
        trees = {"this tree": ROOT, options.against: other}
        stores = {name: make_store(tree, Path(folder) / f"store-{index}")
                  for index, (name, tree) in enumerate(trees.items())}  # fmt: skip
        for index in range(options.rounds):
            print(f"round {index + 1} of {options.rounds}", file=sys.stderr)
            for name, tree in trees.items():
                runs[name].append(run(tree, stores[name], options.seconds))
    for name, values in runs.items():
        ready, stop = (spread([getattr(one, what) for one in values]) for what in ("ready_s", "stop_s"))
        print(f"{name:<12} ready {spread_text(ready, '.2f')} s, stopped {spread_text(stop, '.2f')} s, "
              f"lost {sum(one.lost for one in values)}, 404s {sum(one.not_found for one in values)}")  # fmt: skip
    ours, theirs = runs["this tree"], runs[options.against]
    ratio = statistics.median(one.ready_s / other.ready_s for one, other in zip(ours, theirs, strict=True))
    goals = [
        Goal(f"start to ready / that of {options.against}", ratio, 0.5, most=True),
        Goal("Ctrl-C under load to exit, s", statistics.median(one.stop_s for one in ours), STOP_GOAL_S, most=True),
        Goal("admitted predictions lost", sum(one.lost for one in ours), 0, most=True),
        Goal("404s for tasks that exist", sum(one.not_found for one in ours), 0, most=True),
    ]
    by_tree = {name: [asdict(one) for one in values] for name, values in runs.items()}
    conclude(options.out, {**machine(), "against": options.against, "runs": by_tree}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="start_stop.json")
    parser.add_argument("--against", default="46d4494", help="a commit (default: %(default)s, before replicas)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load before the signal")
    return parser.parse_args()


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", f"{folder}/tree", revision], check=True, capture_output=True)
        try:
            yield Path(folder) / "tree"
        finally:
            subprocess.run([*git, "remove", "--force", f"{folder}/tree"], check=True)


def environment_of(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree)}


def make_store(tree: Path, store: Path) -> Path:
    command = [sys.executable, "-c", MAKE_STORE, str(store), str(TASKS)]
    subprocess.run(command, env=environment_of(tree), cwd=tree, check=True)
    return store


def run(tree: Path, store: Path, seconds: float) -> Run:
    port, image = free_port(), photo(SIDE, 0)
    requests = [post(f"/v1/predict/task-{index}", image) for index in range(TASKS)]
    command = [sys.executable, "-m", "onetrunk", "serve", "--store", str(store), "--port", str(port)]
    start = time.monotonic()
    with subprocess.Popen(command, env=environment_of(tree), cwd=tree, stderr=subprocess.DEVNULL) as process:
        try:
            ready_s = seconds_to_answer(process, port, requests[0], start)
            run_load(Plan(port, requests, 1.0, CONNECTIONS))
            finish = start_load(Plan(port, requests, seconds + BEYOND_S, CONNECTIONS))
            time.sleep(seconds)
            signalled = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(STOP_S)
            stop_s = time.monotonic() - signalled
            return judged(ready_s, stop_s, finish(), signalled)
        finally:
            process.kill()


def judged(ready_s: float, stop_s: float, load: Load, signalled: float) -> Run:
    lost = [one for one in load.failed if load.start + one.due_s < signalled]
    late = Counter(one.status for one in load.failed if load.start + one.due_s >= signalled)
    return Run(ready_s, stop_s, len(lost), late[404], late[503], late[FAILED])


def seconds_to_answer(process: subprocess.Popen[bytes], port: int, request: bytes, start: float) -> float:
    """Return when the first prediction was answered."""
    while time.monotonic() < start + START_S:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with contextlib.suppress(OSError):
            if b" 200 " in answer_to(port, request)[:16]:
                return time.monotonic() - start
        time.sleep(0.05)
    raise TimeoutError("the server answers no prediction")


def answer_to(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
        raw.sendall(request)
        return raw.recv(4096)


if __name__ == "__main__":
    main()
