"""The HTTP API over a store in a process of its own, without Ray: uvicorn as a replica runs it."""

from __future__ import annotations

import sys

import uvicorn

from serving.http.api import make_api
from serving.runtime.predictor import Predictor
from store.malloc import keep_freed_memory
from store.registry.store import Store


def main(root: str, port: int) -> None:
    keep_freed_memory()
    with Store.open(root) as store, Predictor(store, dtype="float32") as predictor:
        api = make_api(predictor, store, keys=True)
        uvicorn.run(api, host="127.0.0.1", port=port, log_level="critical", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
