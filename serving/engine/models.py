"""Which of the two runs a backbone: the engine's own kernel, or torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Protocol

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from serving.engine.batch_run import Tokens
from serving.engine.block import ServedBlock, ServedBlocks
from serving.engine.core_threads import CoreThreads
from serving.engine.cuda.captured_blocks import on_cuda
from serving.engine.cuda.cuda_ends import CudaEnds
from serving.engine.kernel_model import KernelModel
from serving.engine.narrow_maps import NarrowMaps
from serving.engine.row_plan import EngineTask
from serving.engine.swin import swin_blocks, swin_ends
from serving.engine.torch_model import TorchModel, VitEnds
from serving.kernel.instruction_sets import KernelChoice, choose_kernel
from serving.kernel.kernel import Kernel
from serving.kernel.packed_file import open_packed
from serving.kernel.support import coverage
from store.records.backbone import PATCH_MEAN
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights
from store.weights.regular_task import RegularTask
from store.weights.supported import check_supported


class EngineModel(Protocol):
    """A frozen backbone as it runs."""

    def prepare(self, task: TaskWeights | RegularTask) -> EngineTask: ...
    def prepared(self, task: Any) -> Any:
        """Return the task as `begin` takes it; task weights are prepared at first."""

    def begin(self, images: Tensor, tasks: Sequence[Any]) -> Tokens: ...


def make_model(
    backbone: Backbone, *, dtype: torch.dtype, device: torch.device, batch_invariant: bool, setting: str | None
) -> tuple[KernelChoice, EngineModel]:
    choice = _choose(dtype, device, setting)
    in_torch = partial(_torch_model, backbone, dtype=dtype, device=device)
    if choice.library is not None:
        vit = backbone.skeleton()
        covered = coverage(vit, patch_mean=backbone.record.id.arguments.get(PATCH_MEAN) is True)
        if covered.blocks and not isinstance(vit, SwinTransformer):
            packed = open_packed(backbone, vit, choice.library, covered)
            kernel = Kernel(choice.library, vit, packed, covered, threads=torch.get_num_threads())
            whole = covered.stem and covered.pooling
            beside = cache(partial(in_torch, batch_invariant=True))  # an answer's bytes depend on no neighbour
            return choice, KernelModel(kernel, None if whole else backbone.build(dtype=dtype), vit, beside)
        choice = KernelChoice(None, f"the kernel does not run {backbone.record.name}: {covered.reason}", None)
    return choice, in_torch(batch_invariant=batch_invariant)


def _torch_model(backbone: Backbone, *, dtype: torch.dtype, device: torch.device, batch_invariant: bool) -> TorchModel:
    vit = check_supported(backbone.build(dtype=dtype, device=device), backbone.record.name)
    narrow = NarrowMaps(backbone.record.nbytes)
    threads = CoreThreads(torch.get_num_threads() if device.type == "cpu" else 1, always=batch_invariant)
    if isinstance(vit, SwinTransformer):
        return TorchModel(vit, swin_ends(vit), ServedBlocks(swin_blocks(vit, narrow)), threads, batch_invariant, narrow)
    grid = vit.patch_embed.grid_size
    served = ServedBlocks(
        [ServedBlock(block, f"blocks.{index}", grid, narrow) for index, block in enumerate(vit.blocks)]
    )
    if device.type != "cuda":
        return TorchModel(vit, VitEnds(vit), served, threads, batch_invariant, narrow)
    ends = CudaEnds(vit, batch_invariant)
    return TorchModel(vit, ends, on_cuda(vit, served), threads, batch_invariant, narrow)


def _choose(dtype: torch.dtype, device: torch.device, setting: str | None) -> KernelChoice:
    if device.type != "cpu" or dtype != torch.bfloat16:
        return KernelChoice(None, f"it runs bfloat16 on CPUs, not {dtype} on {device.type}", None)
    return choose_kernel(setting)
