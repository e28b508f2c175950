"""The HTTP API over a store in a process of its own, without Ray: uvicorn as a replica runs it."""

from __future__ import annotations

import argparse
from functools import partial

import uvicorn

from serving.grpc.server import grpc_server
from serving.http.api import make_api
from serving.http.limits import HttpLimits
from serving.runtime.predictor import Predictor
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
    options = parser.parse_args()
    keep_freed_memory()
    with Store.open(options.store) as store, Predictor(store, dtype=options.dtype) as predictor:
        limits = HttpLimits(body_s=options.body_s, chunk_s=options.chunk_s)
        beside = options.grpc_port and partial(grpc_server, address=f"127.0.0.1:{options.grpc_port}")
        api = make_api(predictor, store, keys=options.keys, limits=limits, beside=beside or None)
        uvicorn.run(api, host="127.0.0.1", port=options.port, log_level="critical", access_log=False)


if __name__ == "__main__":
    main()
