"""What metrics, logs and traces cost: the CPU time of an answer, over that of an API that notes nothing.

One predictor in this process behind four APIs: one that notes nothing of a request, one with metrics, one that also
writes a line for each request, and one that also traces every request. One client asks them in an order that is drawn
anew for every few requests, so that all have the same share of what this machine does meanwhile; what an API does
after its answers counts for it. What is compared is the CPU time of the event loop's thread, in which all of this is
done, medians over the turns: the engine's own time, which differs by more from turn to turn, is left out of the
differences, and counts in what they are a share of. Of the share of the requests that is traced by default, the cost
is that share of what tracing all of them adds. A collector in this process takes the spans. Prints a table; JSON in
benchmarks/results/observability.json.

    python -m benchmarks.serving.observability
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from support.asgi_calls import talk

from benchmarks.serving.rivals.workload import make_workload
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import make_parser, settings_of
from serving.benchmark.subjects import even_depths
from serving.http.api import Api, make_api
from serving.runtime.predictor import Predictor
from serving.telemetry.log_sink import LogSink
from serving.telemetry.recorder import Recorder
from serving.telemetry.request_record import RequestRecord
from serving.telemetry.traces import OtlpTracer
from serving.telemetry_options import TRACE_SHARE
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import load_backbone

GOAL = 1.03
NOTHING, METRICS, LOG, TRACES = "nothing", "metrics", "and a log", "and all traces"


class BlindRecorder(Recorder):
    """Gives requests their records, and does nothing with them."""

    def headers(self, record: RequestRecord) -> list[tuple[bytes, bytes]]:  # noqa: ARG002 - it says nothing of any
        return []

    def end(self, record: RequestRecord) -> None:
        pass


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder, collecting() as port:
        backbone = load_backbone(DEFAULT_BACKBONE)
        workload = make_workload(Path(folder), backbone, even_depths(options.tasks, backbone.record.blocks))
        with Store.open(workload.store) as store, Predictor(store) as predictor:
            tracer = OtlpTracer(f"http://127.0.0.1:{port}", share=1.0, replica="local")
            sinks = [LogSink(f"{folder}/{name}.jsonl") for name in ("logged", "traced")]
            recorders = {
                NOTHING: BlindRecorder("local", predictor.usage),
                METRICS: Recorder("local", predictor.usage),
                LOG: Recorder("local", predictor.usage, log=sinks[0]),
                TRACES: Recorder("local", predictor.usage, log=sinks[1], tracer=tracer),
            }
            apis = {name: make_api(predictor, store, keys=False, recorder=each) for name, each in recorders.items()}
            seconds = asyncio.run(measure(apis, recorders, workload.images, options.turns))
            tracer.close()
    report(seconds, options)


class Turn(NamedTuple):
    """CPU seconds of an answer: of the event loop's thread, and of the whole process."""

    loop: float
    whole: float


async def measure(
    apis: Mapping[str, Api], recorders: Mapping[str, Recorder], images: Mapping[str, bytes], turns: int
) -> dict[str, list[Turn]]:
    """Return the CPU seconds of an answer in each turn of each API; in one, every task is asked for once, together."""
    seconds = {name: list[Turn]() for name in apis}
    order = list(apis) * turns
    random.Random(0).shuffle(order)
    for index, name in enumerate([*apis, *apis, *order]):
        start, whole = time.thread_time(), time.process_time()
        asked = [talk(apis[name], "POST", f"/v1/predict/{task}", body=image) for task, image in images.items()]
        replies = await asyncio.gather(*asked)
        recorders[name].settle()
        took = time.thread_time() - start, time.process_time() - whole
        assert {reply.status for reply in replies} == {200}
        if index >= 2 * len(apis):  # before that, weights are loaded
            seconds[name].append(Turn(*(part / len(replies) for part in took)))
    return seconds


def report(seconds: Mapping[str, Sequence[Turn]], options: argparse.Namespace) -> None:
    whole_us = 1e6 * statistics.median(turn.whole for turn in seconds[NOTHING])
    answer_us = {name: 1e6 * statistics.median(turn.loop for turn in turns) for name, turns in seconds.items()}
    print(f"an answer takes {whole_us:.0f} us of CPU, of which on the event loop")
    for name, value in answer_us.items():
        added = value - answer_us[NOTHING]
        print(f"{name:<15} {value:7.0f} us, {added:+5.0f}: {added / whole_us:+.1%} of an answer")
    default = answer_us[LOG] + TRACE_SHARE * (answer_us[TRACES] - answer_us[LOG])
    cost = 1 + (default - answer_us[NOTHING]) / whole_us
    goals = [Goal("CPU of an answer with metrics, log and 1 % traces / without", cost, GOAL, most=True)]
    conclude(options.out, {**machine(), **settings_of(options), "whole_us": whole_us, "loop_us": answer_us}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="observability.json")
    parser.add_argument("--turns", type=int, default=150, help="of each API")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="ten turns of each, two tasks")
    options = parser.parse_args()
    if options.quick:
        options.turns, options.tasks = 10, 2
    return options


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
