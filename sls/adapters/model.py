"""What tuning makes: an adapter's tensors for blocks from_block..depth and a linear head, and the model they act in."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.utils.warning import PeftWarning
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from store.errors import InvalidSettingError
from store.weights.backbones import Backbone

BLOCK = re.compile(r"\bblocks\.(\d+)\.")


@dataclass(frozen=True)
class Tuned:
    """A method's trained tensors under its own keys for blocks from_block..depth, and the head.

    The head is weight (classes, dim) and bias (classes). Without tensors the adapter is yet to be made, fresh.
    `rank` is LoRA's and VeRA's, and the hidden width of RepAdapter, Convpass and the bottlenecks; `scale` is what a
    fresh one of these is scaled with, and is among its tensors then.
    """

    depth: int
    rank: int
    adapter: Mapping[str, Tensor]
    weight: Tensor
    bias: Tensor
    method: str = "lora"
    from_block: int = 1
    scale: float = 1.0


@dataclass(frozen=True)
class Adapted:
    """logits = head(vit(x)): a timm model of blocks 1..depth with the adapter in it, and its linear head."""

    vit: VisionTransformer
    head: nn.Linear


@dataclass(frozen=True)
class Wrapped:
    """A timm model of blocks 1..depth with an adapter to be trained in it, and how to collect the adapter's tensors."""

    vit: VisionTransformer
    collect: Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Stored:
    """A task's adapter as its folder holds it: `adapter_config.json` and `adapter_model.safetensors`."""

    config: Mapping[str, object]
    tensors: Mapping[str, Tensor]


def block_of(path: str) -> int:
    """Return the block, counted from 1, that a module path or a tensor key belongs to; 0 where blocks share it."""
    found = BLOCK.search(path)
    return int(found[1]) + 1 if found else 0


def in_order(paths: Iterable[str]) -> list[str]:
    """Sort paths from the first block up: text alone would put block 10 before block 2."""
    return sorted(paths, key=lambda path: (block_of(path), path))


def adapted_blocks(tuned: Tuned) -> range:
    """Return the indices of the blocks that are adapted, or raise `InvalidSettingError` where there is none."""
    if not 1 <= tuned.from_block <= tuned.depth:
        raise InvalidSettingError(
            f"adapters from block {tuned.from_block} of {tuned.depth}: no block is adapted; choose 1..{tuned.depth}"
        )
    return range(tuned.from_block - 1, tuned.depth)


def adapted_paths(tuned: Tuned, modules: Iterable[str]) -> list[str]:
    """Return the modules of the adapted blocks by full path, from the first block up."""
    return in_order(f"blocks.{block}.{module}" for module in modules for block in adapted_blocks(tuned))


def tensors_of(adapters: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Collect the tensors of adapters that stand at these paths, under `PATH.NAME`."""
    return {f"{path}.{name}": value for path, each in adapters.items() for name, value in each.state_dict().items()}


def load_tensors(adapters: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Load what `tensors_of` collected; raise `KeyError` or `RuntimeError` where a tensor lacks or does not fit."""
    for path, adapter in adapters.items():
        adapter.load_state_dict({name: tensors[f"{path}.{name}"] for name in adapter.state_dict()})


@contextmanager
def calm_peft() -> Iterator[None]:
    """Leave out warnings of PEFT's about layers and tensors that are as they should be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)  # timm's LayerNorm is a LayerNorm
        warnings.simplefilter("ignore", PeftWarning)  # it takes LoRA's bias for a part of a tensor
        yield


def trunk(backbone: Backbone, depth: int, dtype: torch.dtype = torch.float32) -> VisionTransformer:
    """Build blocks 1..depth; the output is the pooled, normalised feature."""
    model = backbone.build(dtype=dtype)
    model.blocks = model.blocks[:depth]
    return model


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """y = weight @ x + bias in float32."""
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return head
