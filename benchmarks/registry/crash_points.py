"""How many crash points and power cuts the store's verbs survive: all of them, where CI takes a sample.

Each verb is killed, and fails with EIO and ENOSPC, once and from then on, at every one of its system calls that can
change the store; and its power is cut after every operation, on a disk that keeps only what was synced. Prints a
table; JSON in benchmarks/results/crash_points.json. It needs strace, and exits with 1 where anything is lost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.support.figures import RESULTS, machine, write

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests"))
from support.fault_points import FAULTS, points, sample, try_point, workers  # noqa: E402
from support.invariants import Ground, prepare  # noqa: E402  (the tests' verbs, and what they ask afterwards)
from support.power_cuts import check  # noqa: E402
from support.store_verbs import VERBS  # noqa: E402
from support.strace import why_not  # noqa: E402
from support.task_inputs import make_inputs  # noqa: E402


@dataclass(frozen=True)
class Row:
    """What was tried on one verb: points by system call and by how the verb ended, states by power cut, and losses."""

    verb: str
    points: int
    calls: dict[str, int]
    endings: dict[str, int]
    power_cut_states: int
    problems: tuple[str, ...]
    wall_s: float


def try_verb(ground: Ground, pool: ProcessPoolExecutor, fraction: float) -> Row:
    start = time.monotonic()
    chosen = sample(points(ground), fraction)
    cut = pool.submit(check, ground, at_most=None if fraction == 1 else 20)
    results = list(pool.map(try_point, [ground] * len(chosen), chosen, chunksize=8))
    checked = cut.result()
    problems = [f"{result.point}: {problem}" for result in results for problem in result.problems]
    return Row(
        ground.name,
        len(results),
        dict(Counter(result.point.call for result in results).most_common()),
        dict(Counter(result.how for result in results).most_common()),
        checked.examined,
        (*problems, *map(str, checked.losses)),
        round(time.monotonic() - start, 1),
    )


def print_row(row: Row) -> None:
    endings = ", ".join(f"{count} {how}" for how, count in row.endings.items())
    print(f"{row.verb:<20} {row.points:>6} {row.power_cut_states:>10} {len(row.problems):>6}  {endings}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fraction", type=float, default=1.0, help="of the points, spread evenly (default: all)")
    parser.add_argument("--verb", action="append", choices=VERBS, help="only this one; may be given more than once")
    arguments = parser.parse_args()
    reason = why_not()
    if reason is not None:
        sys.exit(f"no process can be traced: {reason}")
    print(f"{'verb':<20} {'points':>6} {'power cuts':>10} {'lost':>6}  how the verb ended")
    rows = []
    with tempfile.TemporaryDirectory() as folder, workers() as pool:
        inputs = make_inputs(Path(folder, "inputs"))
        for name in arguments.verb or VERBS:
            rows.append(try_verb(prepare(name, inputs, Path(folder, name)), pool, arguments.fraction))
            print_row(rows[-1])
    total = {"points": sum(r.points for r in rows), "power_cut_states": sum(r.power_cut_states for r in rows)}
    lost = sum(len(row.problems) for row in rows)
    print(f"{'total':<20} {total['points']:>6} {total['power_cut_states']:>10} {lost:>6}")
    report = {"machine": machine(), "faults": list(FAULTS), "total": {**total, "problems": lost}}
    write(
        RESULTS / "crash_points.json",
        {**report, "fraction": arguments.fraction, "verbs": [asdict(row) for row in rows]},
        goals=[],
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
