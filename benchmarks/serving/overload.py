"""Half as much load again as the server can take: what is answered within the target, and for whom.

Four tenants with a key and four tasks each ask a real server on the packaged backbone, open loop, in parts of --parts.
The peak is what a closed loop of --connections clients gets, before and after. Each request carries the target as its
deadline; latencies count from when a request was due. A tenant's share is the least of what it asks for and what is
left to it when capacity goes round evenly. Prints a table; JSON in benchmarks/results/overload.json.

    python -m benchmarks.serving.overload
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.serving.rivals.tenants import TenantServer, tenant_server
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.load.plan import Load, Plan, run_load
from benchmarks.support.machine_load import cpu_use
from benchmarks.support.options import make_parser, settings_of

TENANTS, TASKS = ("ann", "bob", "cy", "dee"), 4
MOST_CONNECTIONS = 512
GOODPUT, SHARE = 0.9, 0.8


def main() -> None:
    options = parse()
    with (
        tempfile.TemporaryDirectory() as folder,
        tenant_server(Path(folder), TENANTS, tasks=TASKS, plain=options.plain) as server,
        cpu_use() as cpu,
    ):
        peak_of(server, options)  # warms up
        before = peak_of(server, options)
        peak = before
        load, owners = overload(server, options, options.load * peak)
        after = peak_of(server, options)
        peak = max(before, after)
    within = [sample for sample in load.answered if sample.latency_s <= options.target_ms / 1000]
    goodput = len(within) / options.seconds
    got = Counter(owners[sample.request] for sample in within)
    asked = Counter(owners[sample.request] for sample in load.samples)
    shares = fair_shares({tenant: asked[tenant] / options.seconds for tenant in TENANTS}, goodput)
    ratios = {tenant: got[tenant] / options.seconds / shares[tenant] for tenant in TENANTS}
    for tenant in TENANTS:
        print(f"{tenant:<4} asks {asked[tenant] / options.seconds:7.1f}/s, gets {got[tenant] / options.seconds:7.1f}/s "
              f"within {options.target_ms:g} ms: {ratios[tenant]:.2f} of its share")  # fmt: skip
    statuses = dict(Counter(sample.status for sample in load.samples))
    print(f"peak {before:.1f}/s before, {after:.1f}/s after; statuses {statuses}; foreign cores {cpu.foreign:.2f}")
    goals = [
        Goal("goodput within the target / peak", goodput / peak, GOODPUT),
        Goal("the slowest tenant / its share", min(ratios.values()), SHARE),
    ]
    settings = settings_of(options)
    figures = {
        "peak_before": before, "peak_after": after, "goodput": goodput, "shares": ratios, "statuses": statuses,
        "p99_ms": 1000 * load.latency_s(0.99), "foreign_cores": cpu.foreign,
    }  # fmt: skip
    conclude(options.out, {**machine(), **settings, **figures}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="overload.json")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--load", type=float, default=1.5, help="of the peak")
    parser.add_argument("--target-ms", type=float, default=500.0)
    parser.add_argument("--parts", type=int, nargs=len(TENANTS), default=[4, 2, 1, 1], help="of the load, by tenant")
    parser.add_argument("--connections", type=int, default=16, help="of the closed loop")
    parser.add_argument("--peak-seconds", type=float, default=10.0)
    parser.add_argument("--plain", action="store_true", help="the API on uvicorn alone, without Ray")
    parser.add_argument("--quick", action="store_true", help="on uvicorn alone, three seconds")
    options = parser.parse_args()
    if options.quick:
        options.plain, options.seconds, options.peak_seconds = True, 3.0, 1.0
    return options


def peak_of(server: TenantServer, options: argparse.Namespace) -> float:
    requests = [request for tenant in TENANTS for request in server.requests(tenant)]
    return run_load(Plan(server.port, requests, options.peak_seconds, options.connections)).rate


def overload(server: TenantServer, options: argparse.Namespace, rate: float) -> tuple[Load, list[str]]:
    """Return the load, and whose each request of its plan is."""
    requests, owners = [], []
    for tenant, parts in zip(TENANTS, options.parts, strict=True):
        own = server.requests(tenant, timeout_ms=options.target_ms) * parts
        requests += own
        owners += [tenant] * len(own)
    return run_load(Plan(server.port, requests, options.seconds, MOST_CONNECTIONS, rate=rate)), owners


def fair_shares(asked: Mapping[str, float], capacity: float) -> dict[str, float]:
    """Share the capacity evenly; what a tenant does not ask for goes to the others (max-min fairness)."""
    shares: dict[str, float] = {}
    left: Sequence[str] = sorted(asked, key=lambda tenant: asked[tenant])
    for index, tenant in enumerate(left):
        shares[tenant] = min(asked[tenant], (capacity - sum(shares.values())) / (len(left) - index))
    return shares


if __name__ == "__main__":
    main()
