"""How the requests of one gRPC client are spread over the replicas of a server, by the way it makes its channels.

`onetrunk serve` with --replicas replicas and a gRPC port; one client in this process sends --requests requests, eight
at a time, over one channel, over --channels channels as the library makes them, and over as many that each have
connections of their own. Who answered is read from the metrics of the replicas. Prints each replica's share; JSON in
benchmarks/results/grpc_spread.json.

    python -m benchmarks.serving.grpc_spread
"""

from __future__ import annotations

import argparse
import http.client
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
from support.servers import free_port

from benchmarks.serving.rivals.tenants import TenantServer, tenant_server
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import make_parser, settings_of
from benchmarks.support.steady_load import wait_until
from serving.grpc.messages import message
from store.registry.store import Store
from store.registry.tenant_store import new_key

TENANT = "ann"
INFER = "/inference.GRPCInferenceService/ModelInfer"
AT_A_TIME = 8
OWN = (("grpc.use_local_subchannel_pool", 1),)
STARTED = re.compile(r'^onetrunk_start_time_seconds\{replica="([^"]+)"', re.MULTILINE)
ANSWERED = re.compile(
    r'^onetrunk_requests_total\{(?=.*replica="([^"]+)")(?=.*tenant="ann")(?=.*status="200").*\} (\S+)$', re.MULTILINE
)


def main() -> None:
    options = parse()
    port = free_port()
    serve = ["--replicas", str(options.replicas), "--grpc-port", str(port)]
    ways = {
        "one channel": [()],
        f"{options.channels} channels": [()] * options.channels,
        f"{options.channels} channels with connections of their own": [OWN] * options.channels,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        tenant_server(Path(folder), [TENANT], tasks=1, plain=False, options=serve) as server,
    ):
        with Store.open(server.store) as store:
            key, operator = new_key(None, ("admin",))
            store.put_key(key)
        wait_for_replicas(server, operator, options.replicas)
        found = {
            name: spread(server, operator, f"127.0.0.1:{port}", each, options.requests) for name, each in ways.items()
        }
    report(found, options)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="grpc_spread.json")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--requests", type=int, default=320, help="for each way")
    parser.add_argument("--quick", action="store_true", help="48 requests for each way")
    options = parser.parse_args()
    if options.quick:
        options.requests = 48
    return options


def spread(
    server: TenantServer, operator: str, address: str, ways: Sequence[Sequence[tuple[str, int]]], requests: int
) -> Mapping[str, int]:
    """Send the requests over the channels in turn; return how many each replica answered."""
    request = message("ModelInferRequest")(model_name=server.tasks[TENANT][0])
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(server.image)
    content = request.SerializeToString()
    metadata = (("authorization", f"Bearer {server.secrets[TENANT]}"),)
    before = answered(server, operator)
    with ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(address, options=list(each))) for each in ways]
        calls = [channel.unary_unary(INFER) for channel in channels]
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            sent = [
                threads.submit(calls[number % len(calls)], content, timeout=60, metadata=metadata)
                for number in range(requests)
            ]
            for each in sent:
                each.result()
    after = answered(server, operator)
    return {replica: after[replica] - before[replica] for replica in sorted(after)}


def answered(server: TenantServer, operator: str) -> Counter[str]:
    """Return the predictions that each replica answered, 0 of one that answered none."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {operator}"})
        page = connection.getresponse().read().decode()
    found = Counter(dict.fromkeys(STARTED.findall(page), 0))
    for replica, count in ANSWERED.findall(page):
        found[replica] += int(float(count))
    return found


def wait_for_replicas(server: TenantServer, operator: str, count: int) -> None:
    all_answer = wait_until(lambda: len(answered(server, operator)) >= count, within_s=60)
    assert all_answer is not None, f"not all of {count} replicas answer"


def report(found: Mapping[str, Mapping[str, int]], options: argparse.Namespace) -> None:
    for name, counts in found.items():
        shares = ", ".join(f"{count / sum(counts.values()):.0%}" for count in sorted(counts.values(), reverse=True))
        print(f"{name:<45} {shares}")
    *_, own = found.values()
    goals = [Goal("replicas reached by channels with connections of their own", sum(map(bool, own.values())), 2)]
    conclude(options.out, {**machine(), **settings_of(options), "answered": found}, goals)


if __name__ == "__main__":
    main()
