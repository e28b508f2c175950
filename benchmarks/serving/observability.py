"""What metrics, logs and traces cost: the CPU time of an answer over HTTP, over that of a server that notes nothing.

Servers of one store, all alive, each the API on uvicorn in a process of its own: one that notes nothing, or with
--against one of another commit, then one with metrics, one that also writes a line for each request, one that also
traces one request in a hundred, and, for comparison, one that traces every request. They take turns under a closed loop
of --connections clients, in a new order each round; each that has metrics is scraped once in its turn, which is fifteen
times as often as Prometheus does. A collector in this process takes the spans. A server under a closed loop answers as
many requests a second as it has CPU time for them; what it answered a second is printed too, and tells less, as other
programs take the cores at times. Prints a table; JSON in benchmarks/results/observability.json.

    python -m benchmarks.serving.observability
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from support.server_process import started
from support.servers import free_port

from benchmarks.serving.rivals.workload import Workload, make_workload
from benchmarks.serving.start_stop import worktree
from benchmarks.support.figures import Goal, conclude, machine, spread, spread_text
from benchmarks.support.load.plan import Plan, post, run_load
from benchmarks.support.options import make_parser, settings_of
from benchmarks.support.processes import ROOT
from serving.benchmark.subjects import even_depths
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import load_backbone

GOAL = 1.03
NOTHING, METRICS, LOG, TRACES, ALL = "nothing", "metrics", "and a log", "and 1 % traces", "all traced"
LIBRARIES = Path("serving") / "kernel" / "lib"


class Turn(NamedTuple):
    """What a server answered in its turn, and the CPU seconds that it took."""

    answers: int
    rate: float
    cpu_s: float


@dataclass(frozen=True)
class Subject:
    """A server that is running."""

    name: str
    port: int
    pid: int
    requests: Sequence[bytes]

    def measure(self, seconds: float, connections: int) -> Turn:
        before = cpu_s_of(self.pid)
        scraped = threading.Timer(seconds / 2, self._scrape)
        scraped.start()
        load = run_load(Plan(self.port, self.requests, seconds, connections))
        scraped.join()
        assert not load.failed, f"{self.name}: {load.failed[0]}"
        return Turn(len(load.answered), load.rate, cpu_s_of(self.pid) - before)

    def _scrape(self) -> None:
        if self.name != NOTHING:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30).read()


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        backbone = load_backbone(DEFAULT_BACKBONE)
        workload = make_workload(Path(folder), backbone, even_depths(options.tasks, backbone.record.blocks))
        base = stack.enter_context(tree_of(options.against))
        subjects = list(start(workload, Path(folder), stack, base, is_other=options.against is not None))
        for subject in subjects:
            subject.measure(options.seconds, options.connections)  # warms up
        turns: dict[str, list[Turn]] = {subject.name: [] for subject in subjects}
        order = random.Random(0)
        for index in range(options.rounds):
            print(f"round {index + 1} of {options.rounds}", file=sys.stderr)
            for subject in order.sample(subjects, len(subjects)):
                turns[subject.name].append(subject.measure(options.seconds, options.connections))
    report(turns, options)


def report(turns: Mapping[str, Sequence[Turn]], options: argparse.Namespace) -> None:
    rates = {name: spread([turn.rate for turn in own]) for name, own in turns.items()}
    answer_ms = {name: 1000 * sum(t.cpu_s for t in own) / sum(t.answers for t in own) for name, own in turns.items()}
    ratios = {name: answer_ms[name] / answer_ms[NOTHING] for name in turns}
    for name in turns:
        print(f"{name:<15} {answer_ms[name]:.3f} ms of CPU an answer, over nothing {ratios[name]:.3f}; "
              f"{spread_text(rates[name], '.0f')} answers a second")  # fmt: skip
    goals = [Goal("CPU of an answer with metrics, log and traces / without", ratios[TRACES], GOAL, most=True)]
    figures = {"answer_ms": answer_ms, "ratios": ratios, "rates": rates}
    conclude(options.out, {**machine(), **settings_of(options), **figures}, goals)


def cpu_s_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="observability.json")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--against", help="a commit before there were metrics, in the place of a server without them")
    parser.add_argument("--quick", action="store_true", help="two rounds of a fifth of a second")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.tasks = 2, 0.2, 2
    return options


@contextlib.contextmanager
def tree_of(commit: str | None) -> Iterator[Path]:
    """Give the tree of the commit with the kernel of this one, or this one."""
    if commit is None:
        yield ROOT
        return
    with worktree(commit) as tree:
        shutil.copytree(ROOT / LIBRARIES, tree / LIBRARIES, dirs_exist_ok=True)
        yield tree


def start(workload: Workload, folder: Path, stack: ExitStack, base: Path, *, is_other: bool) -> Iterator[Subject]:
    """Start a server for each subject."""
    collector = f"http://127.0.0.1:{stack.enter_context(collecting())}"
    traced = ["--log", str(folder / "traced.jsonl"), "--traces", collector]
    arguments = {
        NOTHING: [] if is_other else ["--unobserved"],
        METRICS: [],
        LOG: ["--log", str(folder / "logged.jsonl")],
        TRACES: traced,
        ALL: [*traced, "--trace-share", "1"],
    }
    requests = [post(f"/v1/predict/{task}", image) for task, image in workload.images.items()]
    for name, words in arguments.items():
        port, tree = free_port(), base if name == NOTHING else ROOT
        command = [sys.executable, "-m", "support.plain_server", str(workload.store), str(port), "--dtype", "auto"]
        path = os.pathsep.join((str(tree), str(tree / "tests")))
        process = stack.enter_context(started([*command, *words], port, env={**os.environ, "PYTHONPATH": path}))
        yield Subject(name, port, process.pid, requests)


@contextlib.contextmanager
def collecting() -> Iterator[int]:
    """Take spans, and do nothing with them."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


if __name__ == "__main__":
    main()
