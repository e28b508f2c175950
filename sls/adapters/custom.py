"""The methods that PEFT lacks (`store.own_methods`): put into a timm model, collected, stored and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sls.adapters.model import Stored, Tuned, Wrapped, adapted_paths, load_tensors, tensors_of, trunk
from store.adapters.methods.spec import block_number
from store.weights.backbones import Backbone


@dataclass(frozen=True)
class OwnMethod:
    """A kind of adapter: where it stands in a block, how one is made, and how all of them come to act.

    `make(vit, path, hidden, scale)` gives a fresh one for that place, in float32; `insert` puts them into the model by
    their paths. `hidden` says whether the config has a hidden width `r`; `options` are what it says beside.
    """

    kind: str
    places: tuple[str, ...]
    make: Callable[[VisionTransformer, str, int, float], nn.Module]
    insert: Callable[[VisionTransformer, Mapping[str, nn.Module]], None]
    hidden: bool = True
    options: Mapping[str, object] = field(default_factory=dict)

    def wrap(self, backbone: Backbone, tuned: Tuned, dtype: torch.dtype) -> Wrapped:
        """Build blocks 1..depth with an adapter at every place, fresh or with the tensors of `tuned`."""
        vit, paths = trunk(backbone, tuned.depth, dtype), adapted_paths(tuned, self.places)
        adapters = {path: self.make(vit, path, tuned.rank, tuned.scale).to(dtype) for path in paths}
        self.insert(vit, adapters)
        if tuned.adapter:
            load_tensors(adapters, tuned.adapter)
        return Wrapped(vit, lambda: tensors_of(adapters))

    def stored(self, _: Backbone, tuned: Tuned) -> Stored:
        """Give a config of our own, which PEFT does not know, and the tensors as they are."""
        hidden = {"r": tuned.rank} if self.hidden else {}
        paths = adapted_paths(tuned, self.places)
        return Stored({"peft_type": self.kind, **self.options, **hidden, "target_modules": paths}, tuned.adapter)

    def load(
        self, vit: VisionTransformer, config: Mapping[str, object], tensors: Mapping[str, Tensor]
    ) -> VisionTransformer:
        """Put what a checked folder holds into the blocks that the model has."""
        paths = [path for path in cast(list[str], config["target_modules"]) if block_number(path) <= len(vit.blocks)]
        adapters = {path: self.make(vit, path, cast(int, config.get("r", 0)), 1.0) for path in paths}
        self.insert(vit, adapters)
        load_tensors(adapters, tensors)
        return vit


def insert_after(vit: VisionTransformer, adapters: Mapping[str, nn.Module]) -> None:
    """y = adapter(f(x)) at each path, f being the module that stands there."""
    for path, adapter in adapters.items():
        vit.set_submodule(path, nn.Sequential(vit.get_submodule(path), adapter))


def width_of(vit: VisionTransformer, path: str) -> int:
    """Return the width of what the linear map or the norm at the path gives."""
    module = vit.get_submodule(path)
    return module.out_features if isinstance(module, nn.Linear) else cast(int, vit.embed_dim)
