"""The result of tuning: an adapter's tensors for blocks from_block..depth and a linear head; the models with them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.utils.warning import PeftWarning
from torch import Tensor, nn

from store.errors import InvalidSettingError
from store.records.geometry import STAGED, Geometry
from store.weights.backbones import Backbone
from store.weights.supported import TimmModel
from store.weights.trunk import cut

BLOCK = re.compile(r"\bblocks\.(\d+)\.")


@dataclass(frozen=True)
class TunedModel:
    """A method's trained tensors, under the method's keys, for blocks from_block..depth; and the head.

    The head is weight (classes, dim) and bias (classes). An empty `adapter` stands for a fresh one. `rank` is that of
    LoRA and VeRA, and the hidden width of RepAdapter, Convpass and the bottlenecks; `scale` is the initial scale of
    these three, and is kept among their tensors.
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
class AdaptedModel:
    """logits = head(vit(x)): a timm model of blocks 1..depth that contains the adapter, and its linear head."""

    vit: TimmModel
    head: nn.Linear


@dataclass(frozen=True)
class TrainableModel:
    """A timm model of blocks 1..depth with a trainable adapter, and the function that collects its tensors."""

    vit: TimmModel
    collect: Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as a task's folder stores it: `adapter_config.json` and `adapter_model.safetensors`."""

    config: Mapping[str, object]
    tensors: Mapping[str, Tensor]


def block_of(path: str, geometry: Geometry | None = None) -> int:
    """Return the block, counted from 1, of a module path or a tensor key; 0 if blocks share it.

    In a backbone of stages, its geometry says how many blocks there are before a stage.
    """
    if geometry is not None and geometry.staged:
        staged = STAGED.search(path)
        return geometry.number(staged[0]) if staged else 0
    match = BLOCK.search(path)
    return int(match[1]) + 1 if match else 0


def in_order(paths: Iterable[str]) -> list[str]:
    """Sort paths by block, then by text; by text alone, block 10 would precede block 2."""
    return sorted(paths, key=lambda path: (block_of(path), path))


def adapted_blocks(tuned: TunedModel) -> range:
    """Return the indices, from 0, of the adapted blocks; raise `InvalidSettingError` if there is none."""
    if not 1 <= tuned.from_block <= tuned.depth:
        raise InvalidSettingError(
            f"adapters from block {tuned.from_block} of {tuned.depth}: no block is adapted; choose 1..{tuned.depth}"
        )
    return range(tuned.from_block - 1, tuned.depth)


def adapted_paths(tuned: TunedModel, modules: Iterable[str], backbone: Backbone) -> list[str]:
    """Return the full paths of the modules in the adapted blocks, sorted by block."""
    blocks = [backbone.record.geometry.paths[block] for block in adapted_blocks(tuned)]
    return [f"{block}.{module}" for block in blocks for module in sorted(modules)]


def tensors_of(adapters: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Collect the adapters' tensors, by `PATH.NAME`."""
    return {f"{path}.{name}": value for path, module in adapters.items() for name, value in module.state_dict().items()}


def with_adapters(vit: TimmModel, adapters: Mapping[str, nn.Module], tuned: TunedModel) -> TrainableModel:
    """Return a model of inserted adapters, which get the tensors of `tuned` if it has any."""
    if tuned.adapter:
        load_tensors(adapters, tuned.adapter)
    return TrainableModel(vit, lambda: tensors_of(adapters))


def load_tensors(adapters: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Load what `tensors_of` collected; raise `KeyError` for a missing tensor, `RuntimeError` for a wrong shape."""
    for path, adapter in adapters.items():
        adapter.load_state_dict({name: tensors[f"{path}.{name}"] for name in adapter.state_dict()})


@contextmanager
def suppress_peft_warnings() -> Iterator[None]:
    """Hide PEFT's warnings about layers and tensors that are correct."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)  # timm's LayerNorm is a LayerNorm
        warnings.simplefilter("ignore", PeftWarning)  # PEFT mistakes LoRA's bias for a part of a tensor
        yield


def build_vit(backbone: Backbone, depth: int, dtype: torch.dtype = torch.float32) -> TimmModel:
    """Build blocks 1..depth of the backbone; the output is the pooled, normalised feature (n, dim)."""
    return cut(backbone.build(dtype=dtype), depth)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """y = weight @ x + bias in float32."""
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return head
