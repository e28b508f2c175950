"""The methods that PEFT lacks: insert their adapters into a timm model, collect, store and load them.

The format of their folders is defined in `store.adapters.methods.custom`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from sls.adapters.model import (
    StoredAdapter,
    TrainableModel,
    TunedModel,
    adapted_paths,
    build_vit,
    load_tensors,
    with_adapters,
)
from store.weights.backbones import Backbone
from store.weights.supported import TimmModel
from store.weights.trunk import blocks_of


@dataclass(frozen=True)
class CustomMethod:
    """A kind of adapter: its sites in a block, how one is made, and how they are inserted.

    `make(vit, path, hidden, scale)` returns a fresh float32 adapter for the module at `path`; `insert` puts adapters
    into the model by path. `hidden` says whether the config has a hidden width `r`; `options` are its other entries.
    """

    kind: str
    sites: tuple[str, ...]
    make: Callable[[TimmModel, str, int, float], nn.Module]
    insert: Callable[[TimmModel, Mapping[str, nn.Module]], None]
    hidden: bool = True
    options: Mapping[str, object] = field(default_factory=dict)

    def wrap(self, backbone: Backbone, tuned: TunedModel, dtype: torch.dtype) -> TrainableModel:
        """Build blocks 1..depth with an adapter at every site, fresh or with the tensors of `tuned`."""
        vit, paths = build_vit(backbone, tuned.depth, dtype), adapted_paths(tuned, self.sites, backbone)
        adapters = {path: self.make(vit, path, tuned.rank, tuned.scale).to(dtype) for path in paths}
        self.insert(vit, adapters)
        return with_adapters(vit, adapters, tuned)

    def stored(self, backbone: Backbone, tuned: TunedModel) -> StoredAdapter:
        """Return a config of this project's format, which PEFT cannot read, and the tensors unchanged."""
        hidden = {"r": tuned.rank} if self.hidden else {}
        paths = adapted_paths(tuned, self.sites, backbone)
        return StoredAdapter({"peft_type": self.kind, **self.options, **hidden, "target_modules": paths}, tuned.adapter)

    def load(self, vit: TimmModel, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> TimmModel:
        """Insert the adapters of a checked folder into the blocks that the model has."""
        blocks = {f"{block}." for block, _ in blocks_of(vit)}
        paths = [path for path in cast(list[str], config["target_modules"]) if path.startswith(tuple(blocks))]
        adapters = {path: self.make(vit, path, cast(int, config.get("r", 0)), 1.0) for path in paths}
        self.insert(vit, adapters)
        load_tensors(adapters, tensors)
        return vit


def insert_after(vit: TimmModel, adapters: Mapping[str, nn.Module]) -> None:
    """y = adapter(f(x)) at each path, where f is the module at that path."""
    for path, adapter in adapters.items():
        vit.set_submodule(path, nn.Sequential(vit.get_submodule(path), adapter))


def width_of(vit: TimmModel, path: str) -> int:
    """Return the output width of the linear map or norm at the path, or of the block that what it names is in."""
    module = vit.get_submodule(path)
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[0]
    if isinstance(module, nn.Linear):
        return module.out_features
    return cast(int, vit.get_submodule(path.rpartition(".")[0]).norm1.normalized_shape[0])
