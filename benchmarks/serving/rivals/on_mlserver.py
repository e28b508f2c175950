"""MLServer: a model of its own for each task, cut and merged, in two worker processes; images as BYTES in base64."""

from __future__ import annotations

import argparse
import asyncio
import os

import torch
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.serving.rivals.models import MergedTask, PeerFiles


class Task(MLModel):
    """One task as MLServer's model; each worker process has all of them."""

    async def load(self) -> bool:
        torch.set_num_threads(1)
        assert self.settings.parameters is not None
        self._files = PeerFiles(str(self.settings.parameters.uri))
        self._model = MergedTask(self._files, self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = [self._files.decode(data) for data in Base64Codec.decode_input(payload.inputs[0])]
        best = self._model.predict(images)
        output = ResponseOutput(name="label", shape=[len(best)], datatype="INT64", data=best)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def serve(folder: str, port: int) -> None:
    settings = Settings(
        host="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2, debug=False,
        parallel_workers=len(os.sched_getaffinity(0)), environments_dir=folder, metrics_dir=folder,
        cache_enabled=False,
    )  # fmt: skip
    models = [
        ModelSettings(name=task, implementation=Task, parameters=ModelParameters(uri=folder))
        for task in PeerFiles(folder).depths
    ]
    await MLServer(settings).start(models)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    asyncio.run(serve(options.folder, options.port))


if __name__ == "__main__":
    main()
