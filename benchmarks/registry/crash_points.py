"""How many crash points and power cuts the store's verbs survive: all of them, where CI takes a sample.

Each verb is killed, and fails with EIO and ENOSPC, once and from then on, at every one of its system calls that can
change the store; and its power is cut after every operation, on a disk that keeps only what was synced. Prints a
table; JSON in benchmarks/results/crash_points.json. It needs strace, and exits with 1 where anything is lost.

    python -m benchmarks.registry.crash_points
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path

from support.crash_subjects import Subject, workers
from support.fault_points import FAULTS, points, sample, try_points
from support.power_cuts import check
from support.store_verbs import VERBS
from support.strace import why_not
from support.task_inputs import prepare_verbs

from benchmarks.support.figures import conclude, machine
from benchmarks.support.options import make_parser


@dataclass(frozen=True)
class VerbResult:
    """What was tried on one verb: points by system call and by how the verb ended, states by power cut, and losses."""

    verb: str
    points: int
    calls: dict[str, int]
    endings: dict[str, int]
    power_cut_states: int
    problems: tuple[str, ...]
    wall_s: float


def main() -> None:
    options = parse()
    reason = why_not()
    if reason is not None:
        sys.exit(f"no process can be traced: {reason}")
    print(f"{'verb':<20} {'points':>6} {'power cuts':>10} {'lost':>6}  how the verb ended")
    rows = []
    with tempfile.TemporaryDirectory() as folder, workers() as pool:
        for subject in prepare_verbs(Path(folder), options.verb or VERBS).values():
            rows.append(try_verb(subject, pool, options.fraction))
            print_row(rows[-1])
    total = {"points": sum(r.points for r in rows), "power_cut_states": sum(r.power_cut_states for r in rows)}
    lost = sum(len(row.problems) for row in rows)
    print(f"{'total':<20} {total['points']:>6} {total['power_cut_states']:>10} {lost:>6}")
    report = {"machine": machine(), "faults": list(FAULTS), "total": {**total, "problems": lost}}
    conclude(options.out, {**report, "fraction": options.fraction, "verbs": [asdict(row) for row in rows]})
    sys.exit(lost > 0)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="crash_points.json")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the points, spread evenly (default: all)")
    parser.add_argument("--verb", action="append", choices=VERBS, help="only this one; may be given more than once")
    return parser.parse_args()


def try_verb(subject: Subject, pool: Executor, fraction: float) -> VerbResult:
    start = time.monotonic()
    cut = pool.submit(check, subject, at_most=None if fraction == 1 else 20)
    results = try_points(subject, sample(points(subject), fraction), pool)
    cuts = cut.result()
    problems = [f"{result.point}: {problem}" for result in results for problem in result.problems]
    return VerbResult(
        subject.name,
        len(results),
        dict(Counter(result.point.call for result in results).most_common()),
        dict(Counter(result.how for result in results).most_common()),
        cuts.examined,
        (*problems, *map(str, cuts.losses)),
        round(time.monotonic() - start, 1),
    )


def print_row(row: VerbResult) -> None:
    endings = ", ".join(f"{count} {how}" for how, count in row.endings.items())
    print(f"{row.verb:<20} {row.points:>6} {row.power_cut_states:>10} {len(row.problems):>6}  {endings}", flush=True)


if __name__ == "__main__":
    main()
