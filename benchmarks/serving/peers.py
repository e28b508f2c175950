"""Images a second over HTTP, ours against other servers of the same tasks, in one run on the same cores.

Rivals serve stock timm and PEFT in bfloat16, a worker a core with one thread each: Ray Serve behind HAProxy with a
merged model a task (`@serve.multiplexed`) and with `adapter_names` in batches (`@serve.batch`); LitServe with the same
batches; MLServer with a merged model a task. LitServe and MLServer run on --peer-python, an environment with
`pip install litserve mlserver timm peft "uvloop<0.22"`: MLServer's workers do not start with a later uvloop. All
servers of a case are up at once, and take turns within a round; so does the bare engine. The client is a process with
one event loop on the same cores; its CPU, and that of foreign programs, is in the result. Prints a table; JSON in
benchmarks/results/peers.json.

    python -m benchmarks.serving.peers
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.serving.rivals.bare import BareEngine
from benchmarks.serving.rivals.subjects import OURS, Running, Subject, ask_ours_together, our_server, rivals
from benchmarks.serving.rivals.verdicts import GOALS, agreement, goals_of
from benchmarks.serving.rivals.workload import Workload, make_workload
from benchmarks.support.figures import conclude, machine, spread, spread_of_ratios, spread_text
from benchmarks.support.load.plan import Load, Plan, run_load
from benchmarks.support.machine_load import cpu_use
from benchmarks.support.models import random_vit_base
from benchmarks.support.options import make_parser, settings_of
from serving.benchmark.subjects import even_depths
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import load_backbone

TASKS = 16
CONNECTIONS = 16
TOGETHER, CONNECTIONS_TOGETHER = 16, 4  # images in one request, and the clients that send such requests
CASES = ("packaged, mean depth 8", "packaged, full depth", "ViT-B, mean depth 8")
ALONE, MANY, BARE, BARE_ALONE = "one client", "16 images a request", "bare engine", "bare engine, one image"
RIVALS = ("ray", "litserve", "mlserver")


@dataclass
class Measured:
    """Of one case: images a second and latencies by subject, round by round, and what went on beside them."""

    images_per_s: dict[str, list[float]] = field(default_factory=dict)
    p50_ms: dict[str, list[float]] = field(default_factory=dict)
    p99_ms: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, Counter[int]] = field(default_factory=dict)
    foreign_cores: list[float] = field(default_factory=list)
    client_cores: list[float] = field(default_factory=list)
    task_nbytes: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, load: Load, images: int) -> None:
        self.images_per_s.setdefault(name, []).append(load.rate * images)
        self.failed.setdefault(name, Counter()).update(sample.status for sample in load.failed)
        self.client_cores.append(load.client_cpu_s / load.seconds)
        if load.answered:
            self.p50_ms.setdefault(name, []).append(1000 * load.latency_s(0.5))
            self.p99_ms.setdefault(name, []).append(1000 * load.latency_s(0.99))


def main() -> None:
    options = parse()
    torch.set_num_threads(1)  # this process only prepares: the cores are the servers'
    measured = {name: measure(name, options) for name in options.cases}
    for name, case in measured.items():
        show(name, case)
    settings = settings_of(options, "peer_python")
    report = {"machine": machine(), "torch": torch.__version__, **settings, "cases": to_json(measured)}
    conclude(options.out, report, goals_of(measured, kernel=options.kernel))


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="peers.json")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=["ray"])
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has LitServe and MLServer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each subject in a round")
    parser.add_argument("--kernel", choices=GOALS, default="native", help="the engine's, which decides the goals")
    parser.add_argument("--quick", action="store_true", help="ours on uvicorn alone, no rivals, one round of a second")
    options = parser.parse_args()
    if options.quick:
        options.cases, options.rivals, options.rounds, options.seconds = [CASES[1]], [], 1, 1.0
    return options


@torch.inference_mode()
def measure(name: str, options: argparse.Namespace) -> Measured:
    is_packaged = name.startswith("packaged")
    backbone = load_backbone(DEFAULT_BACKBONE) if is_packaged else random_vit_base()
    blocks = backbone.record.blocks
    depths = [blocks] * TASKS if name.endswith("full depth") else even_depths(TASKS, blocks)
    measured = Measured()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workload = make_workload(Path(folder), backbone, depths)
        del backbone
        bare = stack.enter_context(BareEngine(workload).running())
        subjects = dict(stack.enter_context(servers(workload, options)))
        for subject, running in subjects.items():
            say(f"{name}: {subject.name} warms up")
            measured.task_nbytes[subject.name] = memory_of_a_task(subject, running, workload, options.seconds)
        measured.agreement = agreement(subjects, workload)
        for index in range(options.rounds):
            say(f"{name}: round {index + 1} of {options.rounds}")
            with cpu_use() as cpu:
                measure_round(measured, subjects, bare, workload, options.seconds, rows=TASKS if is_packaged else 8)
            measured.foreign_cores.append(cpu.foreign)
    return measured


@contextlib.contextmanager
def servers(workload: Workload, options: argparse.Namespace) -> Iterator[list[tuple[Subject, Running]]]:
    """Start all servers, and stop them at the end."""
    with contextlib.ExitStack() as stack:
        subjects = []
        for server in [our_server(plain=options.quick), *rivals(options.rivals, options.peer_python)]:
            say(f"{server.module} starts")
            running = stack.enter_context(server.running(workload))
            subjects += [(subject, running) for subject in server.subjects]
        yield subjects


def measure_round(
    measured: Measured,
    subjects: Mapping[Subject, Running],
    bare: BareEngine,
    workload: Workload,
    seconds: float,
    *,
    rows: int,
) -> None:
    for subject, running in subjects.items():
        requests = [subject.ask(task, image) for task, image in workload.images.items()]
        with stopped(other for other in subjects.values() if other is not running):
            measured.note(subject.name, run_load(Plan(running.port, requests, seconds, CONNECTIONS)), 1)
    with stopped(subjects.values()):
        ours = subjects[OURS]
        requests = [OURS.ask(task, image) for task, image in workload.images.items()]
        measured.note(ALONE, run_load(Plan(ours.port, requests, seconds, 1)), 1)
        together = [ask_ours_together(task, [image] * TOGETHER) for task, image in workload.images.items()]
        measured.note(MANY, run_load(Plan(ours.port, together, seconds, CONNECTIONS_TOGETHER)), TOGETHER)
        for name, batch in ((BARE, rows), (BARE_ALONE, 1)):
            said = bare.run(batch, seconds)
            measured.images_per_s.setdefault(name, []).append(said.images_per_s)
            measured.p50_ms.setdefault(name, []).append(1000 * said.p50_s)


@contextlib.contextmanager
def stopped(servers: Iterable[Running]) -> Iterator[None]:
    """Stop servers whose workers poll while nobody asks; Ray would take a stopped replica for a lost one."""
    waiting = [server for server in servers if not server.is_on_ray]
    for server in waiting:
        server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for server in waiting:
            server.signal(signal.SIGCONT)


def memory_of_a_task(subject: Subject, running: Running, workload: Workload, seconds: float) -> float:
    """Return by how many bytes the server grows for each task after the first; all caches are warm before."""
    requests = [subject.ask(task, image) for task, image in workload.images.items()]
    run_load(Plan(running.port, requests[:1], seconds, CONNECTIONS))
    before = running.memory_nbytes()
    run_load(Plan(running.port, requests, 2 * seconds, CONNECTIONS))
    time.sleep(1.0)
    return (running.memory_nbytes() - before) / (len(requests) - 1)


def show(name: str, measured: Measured) -> None:
    print(f"\n{name}")
    for subject, rates in measured.images_per_s.items():
        ours = measured.images_per_s[OURS.name]
        ratio = spread_text(spread_of_ratios(ours, rates), ".2f") if all(rates) else "-"
        p50 = spread_text(spread(measured.p50_ms[subject]), ".1f") if subject in measured.p50_ms else "-"
        print(
            f"  {subject:<24} {spread_text(spread(rates), '.1f'):>26} images/s   p50 {p50:>22} ms   ours / it {ratio}"
        )
    foreign, client = max(measured.foreign_cores), max(measured.client_cores)
    print(f"  foreign programs took up to {foreign:.2f} cores, the client up to {client:.2f}")
    for subject, statuses in measured.failed.items():
        if statuses:
            print(f"  {subject}: failed by status {dict(statuses)}")


def to_json(measured: Mapping[str, Measured]) -> dict[str, object]:
    return {
        name: {
            "images_per_s": {subject: spread(values) for subject, values in case.images_per_s.items()},
            "p50_ms": {subject: spread(values) for subject, values in case.p50_ms.items()},
            "p99_ms": {subject: spread(values) for subject, values in case.p99_ms.items()},
            "failed": case.failed,
            "task_nbytes": case.task_nbytes,
            "agreement": case.agreement,
            "foreign_cores": spread(case.foreign_cores),
            "client_cores": spread(case.client_cores),
        }
        for name, case in measured.items()
    }


def say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
