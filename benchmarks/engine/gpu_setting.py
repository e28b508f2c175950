"""What `engine.gpu` runs on: a GPU and backbones of real sizes, or a CPU and a tiny one to try the script."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from support.captured_engine import captured_blocks, with_captured_blocks, with_torch_path
from support.oracle import make_backbone

from benchmarks.support.models import random_vit
from serving.engine.cuda.captured_blocks import CapturedBlocks, on_cuda
from serving.engine.cuda.captures import Capture, GraphCapture, call_directly
from serving.engine.engine import Engine
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights

ARCHITECTURES = {"base": "vit_base_patch16_224", "large": "vit_large_patch16_224"}


@dataclass(frozen=True)
class Setting:
    """The device, when to stop, and the sizes of what is measured."""

    device: torch.device
    deadline: float
    batches: tuple[int, ...]
    rounds: int
    tasks: int
    """How many tasks the captures are counted over."""
    width: int
    """Of the matrices whose product tells the device's rate."""

    @property
    def tiny(self) -> bool:
        return self.device.type == "cpu"

    @lru_cache(maxsize=1)  # noqa: B019  # one setting for each run, one backbone at a time
    def backbone(self, size: str) -> Backbone:
        return tiny_backbone() if self.tiny else random_vit(ARCHITECTURES[size])

    def engine(self, backbone: Backbone, dtype: torch.dtype, *, batch_invariant: bool = False) -> Engine:
        """Return an engine that runs captured steps, which on a CPU are called."""
        engine = Engine(backbone, dtype=dtype, device=str(self.device), batch_invariant=batch_invariant)
        return with_captured_blocks(engine, captured_blocks(engine)) if self.tiny else engine

    def torch_engine(self, backbone: Backbone, dtype: torch.dtype) -> Engine:
        """Return an engine that runs the torch path on the device."""
        return with_torch_path(Engine(backbone, dtype=dtype, device=str(self.device)))

    def observed_engine(self, backbone: Backbone, dtype: torch.dtype) -> tuple[Engine, CapturedBlocks]:
        """Return an engine and the captured blocks that it runs."""
        engine = self.torch_engine(backbone, dtype)
        model = engine._model
        blocks = captured_blocks(engine) if self.tiny else on_cuda(model.vit, model.blocks)  # type: ignore[arg-type]
        return with_captured_blocks(engine, blocks), blocks

    def capture(self) -> Capture:
        return call_directly if self.tiny else GraphCapture(self.device)

    def synchronize(self) -> None:
        if not self.tiny:
            torch.cuda.synchronize(self.device)


def setting_of(*, cpu: bool, deadline: float) -> Setting:
    if cpu:
        return Setting(torch.device("cpu"), deadline, (2, 3), 2, 24, 64)
    return Setting(torch.device("cuda"), deadline, (8, 16, 64), 30, 1000, 8192)


def tiny_backbone() -> Backbone:
    with tempfile.TemporaryDirectory() as folder:
        return make_backbone(Path(folder) / "backbone")


def moved(task: TaskWeights, device: torch.device, dtype: torch.dtype) -> TaskWeights:
    head, bias = task.head_weight.to(device, dtype), task.head_bias.to(device, dtype)
    return replace(task, forms=task.forms.to(device, dtype), head_weight=head, head_bias=bias)
