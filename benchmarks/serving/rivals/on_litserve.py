"""LitServe: two workers, each with one PEFT model of all tasks, mixed in a batch by `adapter_names`."""

from __future__ import annotations

import argparse
import base64
import os
from typing import Any

import litserve
import torch

from benchmarks.serving.rivals.models import MixedTasks, PeerFiles

ROWS, WAIT_S = 16, 0.005


class Api(litserve.LitAPI):
    """Take `{"task": …, "image": base64}` and answer `{"label": …}`."""

    def __init__(self, folder: str) -> None:
        super().__init__(max_batch_size=ROWS, batch_timeout=WAIT_S, api_path="/predict")
        self._folder = folder

    def setup(self, device: str) -> None:
        del device
        torch.set_num_threads(1)
        self._files = PeerFiles(self._folder)
        self._model = MixedTasks(self._files)

    def decode_request(self, request: dict[str, str]) -> tuple[str, torch.Tensor]:
        return request["task"], self._files.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
        return list(inputs)

    def predict(self, x: list[tuple[str, torch.Tensor]]) -> list[int]:
        return self._model.predict([task for task, _ in x], [image for _, image in x])

    def unbatch(self, output: list[int]) -> list[int]:
        return output

    def encode_response(self, output: int) -> dict[str, Any]:
        return {"label": output}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    server = litserve.LitServer(
        Api(options.folder), accelerator="cpu", workers_per_device=len(os.sched_getaffinity(0)), timeout=120
    )
    server.run(host="127.0.0.1", port=options.port, log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main()
