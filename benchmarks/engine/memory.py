"""What engine processes on one machine take in memory together: 1, 2 and 4 of them on one backbone of one store.

Each process opens the backbone from the store, answers a batch of eight LoRA tasks and waits; when all do, each reads
its RSS and its PSS (of a page that N processes share, each has 1/N) from /proc/self/smaps_rollup. Three ways: the
packed backbone as a file that they map, a packed backbone in each process, and torch. JSON in
benchmarks/results/memory.json.

    python -m benchmarks.engine.memory
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.models import backbones
from benchmarks.support.options import make_parser
from benchmarks.support.processes import environment
from onetrunk.rendering.tables import Record, to_markdown
from serving.benchmark.subjects import random_task
from serving.engine.engine import Engine
from serving.kernel import instruction_sets, packed_file
from store.registry.store import Store
from store.weights.backbones import encode, open_backbone

PROCESSES = (1, 2, 4)
TASKS = 8
MB = 1 << 20
SETTINGS = (instruction_sets.SETTING, packed_file.SETTING)  # of an engine: which kernel, and where its files are


def main() -> None:
    options = parse()
    if options.run is not None:
        run_engine(options.run)
        return
    name, backbone = list(backbones(packaged_alone=options.embedded).items())[-1]
    rows: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        with Store.open(Path(folder, "store"), create=True) as store:
            store.add_backbone(backbone.record, encode(backbone))
        cache = str(Path(folder, "cache"))
        ways = {"one file": ("auto", cache), "each its own": ("auto", "off"), "torch": ("off", "off")}
        for way, settings in ways.items():
            base = environment(os.environ | dict(zip(SETTINGS, settings, strict=True)))
            for count in options.processes:
                found = memory_of(count, Path(folder, "store"), base)
                rss, pss = (sum(each[key] for each in found) for key in ("Rss", "Pss"))
                rows.append({"packed backbone": way, "processes": count, "RSS, MB": rss, "PSS, MB": pss})
                print(f"{way}, {count}: RSS {rss} MB, PSS {pss} MB", file=sys.stderr)
    print(to_markdown(rows))
    most = max(options.processes)
    together = {row["packed backbone"]: int(str(row["PSS, MB"])) for row in rows if row["processes"] == most}
    goal = Goal(
        f"PSS of {most} processes, one file over each its own",
        together["one file"] / together["each its own"],
        1.0,
        most=True,
    )
    conclude(options.out, {"machine": machine(), "backbone": name, "rows": rows}, [goal])


def memory_of(count: int, store: Path, base: dict[str, str]) -> list[dict[str, int]]:
    """Return RSS and PSS in MB of each of so many engines that wait at the same time."""
    command = (sys.executable, "-m", "benchmarks.engine.memory", "--run", str(store))
    started = [
        subprocess.Popen(command, env=base, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    found = []
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        for process in started:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            found.append({key: value // 1024 for key, value in json.loads(process.stdout.readline()).items()})
    finally:
        for process in started:
            process.communicate()  # its end, at which the engine ends, too
    return found


@torch.inference_mode()
def run_engine(folder: Path) -> None:
    """Answer a batch, say so, and at each line from stdin print the memory of this process in kB."""
    with Store.open(folder) as store:
        (record,) = store.backbones()
        backbone = open_backbone(store, record)
    p, engine = backbone.record.id.preprocessing, Engine(backbone, dtype=torch.bfloat16)
    tasks = [random_task(backbone, dtype=torch.bfloat16, device="cpu", seed=seed) for seed in range(TASKS)]
    engine.forward(torch.randn(TASKS, 3, p.height, p.width), tasks)
    print("ready", flush=True)
    for _ in sys.stdin:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        fields = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        print(json.dumps({key: fields[key] for key in ("Rss", "Pss")}), flush=True)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="memory.json")
    parser.add_argument("--embedded", action="store_true", help="the packaged backbone instead of ViT-B/16")
    parser.add_argument("--processes", type=int, nargs="+", default=list(PROCESSES))
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
