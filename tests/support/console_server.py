"""`python -m support.console_server FOLDER PORT [--keys]`: the API and the console over a store, without Ray."""

from __future__ import annotations

import argparse

import uvicorn

from serving.console.mounting import mount_console
from serving.http.api import make_api
from serving.runtime.predictor import Predictor
from store.registry.store import Store


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("port", type=int)
    parser.add_argument("--keys", action="store_true")
    options = parser.parse_args()
    with Store.open(options.store) as store, Predictor(store, dtype="float32") as predictor:
        api = make_api(predictor, store, keys=options.keys)
        mount_console(api)
        uvicorn.run(api, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
