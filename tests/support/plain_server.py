"""The HTTP API over a store in a process of its own, without Ray: uvicorn as a replica runs it."""

from __future__ import annotations

import argparse
from functools import partial

import uvicorn

from serving.config import TRACE_SHARE
from serving.grpc.server import grpc_server
from serving.http.api import make_api
from serving.http.limits import HttpLimits
from serving.runtime.predictor import Predictor
from serving.telemetry.log_sink import LogSink
from serving.telemetry.recorder import Recorder
from store.malloc import keep_freed_memory
from store.registry.store import Store


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("port", type=int)
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--body-s", type=float, default=HttpLimits.body_s)
    parser.add_argument("--chunk-s", type=float, default=HttpLimits.chunk_s)
    parser.add_argument("--grpc-port", type=int)
    parser.add_argument("--log", help="a file for the lines of requests")
    parser.add_argument("--traces", help="the address of a collector")
    parser.add_argument("--trace-share", type=float, default=TRACE_SHARE)
    parser.add_argument("--unobserved", action="store_true", help="count nothing of requests")
    options = parser.parse_args()
    keep_freed_memory()
    with Store.open(options.store) as store, Predictor(store, dtype=options.dtype) as predictor:
        limits = HttpLimits(body_s=options.body_s, chunk_s=options.chunk_s)
        beside = options.grpc_port and partial(grpc_server, address=f"127.0.0.1:{options.grpc_port}")
        recorder = make_recorder(predictor, options)
        api = make_api(predictor, store, keys=options.keys, limits=limits, recorder=recorder, beside=beside or None)
        uvicorn.run(api, host="127.0.0.1", port=options.port, log_level="critical", access_log=False)


class BlindRecorder(Recorder):
    """Gives requests their records, and does nothing with them."""

    def headers(self, record):  # noqa: ARG002 - whatever the request is, nothing is said of it
        return []

    def end(self, record):
        pass


def make_recorder(predictor: Predictor, options: argparse.Namespace) -> Recorder:
    if options.unobserved:
        return BlindRecorder("plain", predictor.usage)
    log = None if options.log is None else LogSink(options.log)
    tracer = None
    if options.traces is not None:
        from serving.telemetry.traces import OtlpTracer  # its library is an extra

        tracer = OtlpTracer(options.traces, share=options.trace_share, replica="plain")
    return Recorder("plain", predictor.usage, log=log, tracer=tracer)


if __name__ == "__main__":
    main()
