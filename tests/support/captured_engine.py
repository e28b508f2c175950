"""The engine's path for a CUDA device on a CPU: steps are called instead of captured, kernels are interpreted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from serving.engine.block import ServedBlock, ServedBlocks
from serving.engine.cuda.captured_blocks import BUCKETS, CapturedBlocks
from serving.engine.cuda.captures import Capture, call_directly
from serving.engine.cuda.cuda_ends import CudaEnds
from serving.engine.cuda.row_ops import RowOps, StaticRows, TorchRowOps
from serving.engine.engine import Engine
from serving.engine.narrow_maps import NarrowMaps
from serving.engine.torch_model import VitEnds


def captured_blocks(
    engine: Engine,
    make_ops: Callable[[StaticRows], RowOps] = TorchRowOps,
    *,
    capture: Capture = call_directly,
    buckets: Sequence[int] = BUCKETS,
) -> CapturedBlocks:
    model = engine._model
    return CapturedBlocks(model.vit, model.blocks, capture=capture, make_ops=make_ops, buckets=buckets)


def with_torch_path(engine: Engine) -> Engine:
    """Have the engine run its blocks in the torch path, whatever its device."""
    vit = engine._model.vit
    grid, narrow = vit.patch_embed.grid_size, NarrowMaps(0)
    blocks = ServedBlocks([ServedBlock(block, f"blocks.{i}", grid, narrow) for i, block in enumerate(vit.blocks)])
    engine._model = replace(engine._model, ends=VitEnds(vit), blocks=blocks)
    return engine


def with_captured_blocks(engine: Engine, blocks: CapturedBlocks) -> Engine:
    """Have the engine run these blocks between the ends that it has on a CUDA device."""
    model = engine._model
    engine._model = replace(model, ends=CudaEnds(model.vit, model.one_by_one), blocks=blocks)
    return engine
