"""An engine in process, random LoRA tasks of given depths, and one image that they are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import torch

from serving.benchmark.subjects import random_task
from serving.engine.engine import Engine
from serving.prediction import Prediction
from serving.runtime.engine_loop import EngineLoop
from serving.runtime.prediction_request import PendingPrediction, PredictionRequest
from store.weights.backbones import Backbone


class EngineTasks:
    """An engine and its tasks, one for each depth; a task is named by its place."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype, depths: Sequence[int]) -> None:
        p = backbone.record.id.preprocessing
        self.engine = Engine(backbone, dtype=dtype)
        self.image = torch.randn(3, p.height, p.width)
        self.tasks = [
            random_task(backbone, depth=depth, seed=seed, dtype=dtype, device="cpu")
            for seed, depth in enumerate(depths)
        ]

    def send(self, loop: EngineLoop, task: int) -> Future[Prediction]:
        prediction = PendingPrediction(str(task), 1, self.tasks[task])
        loop.submit(PredictionRequest(self.image, (prediction,)))
        return prediction.future
