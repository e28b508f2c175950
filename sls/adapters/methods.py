"""The methods that can be trained: PEFT's, and those that PEFT lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, cast

import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    VeraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from sls.adapters import bitfit, bottleneck, convpass, repadapter, ssf
from sls.adapters.model import (
    AdaptedModel,
    StoredAdapter,
    TrainableModel,
    TunedModel,
    adapted_paths,
    build_vit,
    linear,
    suppress_peft_warnings,
)
from sls.adapters.parallel import ParallelAdapterBlock
from store.adapters.methods.custom import BITFIT, BOTTLENECK, CONVPASS, SSF
from store.adapters.methods.spec import LINEAR, NORMS
from store.weights.backbones import Backbone
from store.weights.supported import TimmModel

Loader = Callable[[TimmModel, Mapping[str, object], Mapping[str, Tensor]], TimmModel]

RSLORA_ALPHA = 6  # LoRA's scaling of 2 at rank 8; the point of rsLoRA is that it then fits every rank


class TuningMethod(Protocol):
    """How an adapter is inserted into a model, and what a task's folder stores of it. An object or a module.

    `wrap` builds the model of blocks 1..depth and loads the tensors of `tuned`, if it has any; `stored` returns the
    config and the tensors for the folder. The engine serves every folder that a method writes.
    """

    def wrap(self, backbone: Backbone, tuned: TunedModel, dtype: torch.dtype, /) -> TrainableModel: ...

    def stored(self, backbone: Backbone, tuned: TunedModel, /) -> StoredAdapter: ...


@dataclass(frozen=True)
class _Peft:
    """A method of PEFT: which modules of a block it adapts, and its config for given modules and a rank."""

    modules: tuple[str, ...]
    config: Callable[[list[str], int], PeftConfig]

    def wrap(self, backbone: Backbone, tuned: TunedModel, dtype: torch.dtype) -> TrainableModel:
        config = self.config(self.targets(tuned, backbone), tuned.rank)
        vit = build_vit(backbone, tuned.depth, dtype)
        with suppress_peft_warnings():
            peft = get_peft_model(vit, config, autocast_adapter_dtype=False).to(dtype)
        if tuned.adapter:
            set_peft_model_state_dict(peft, dict(tuned.adapter))
        return TrainableModel(cast(TimmModel, peft.base_model.model), lambda: _collect(peft))

    def stored(self, backbone: Backbone, tuned: TunedModel) -> StoredAdapter:
        return StoredAdapter(self.config(self.targets(tuned, backbone), tuned.rank).to_dict(), tuned.adapter)

    def targets(self, tuned: TunedModel, backbone: Backbone) -> list[str]:
        # by full path: PEFT's short `proj` would also hit `patch_embed.proj`
        return adapted_paths(tuned, self.modules, backbone)


def _collect(peft: PeftModel) -> Mapping[str, Tensor]:
    with suppress_peft_warnings():
        return dict(get_peft_model_state_dict(peft))


def _lora(targets: list[str], rank: int) -> PeftConfig:
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)


def _rslora(targets: list[str], rank: int) -> PeftConfig:
    return LoraConfig(r=rank, lora_alpha=RSLORA_ALPHA, target_modules=targets, use_rslora=True)


def _dora(targets: list[str], rank: int) -> PeftConfig:
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, use_dora=True)


def _ia3(targets: list[str], _: int) -> PeftConfig:
    hidden = [path for path in targets if path.endswith(".fc2")]
    return IA3Config(target_modules=targets, feedforward_modules=hidden)


def _vera(targets: list[str], rank: int) -> PeftConfig:
    return VeraConfig(r=rank, target_modules=targets, save_projection=True)


def _ln(targets: list[str], _: int) -> PeftConfig:
    return LNTuningConfig(target_modules=targets)


def plain_blocks(vit: VisionTransformer) -> list[Block]:
    """Return timm's blocks of a model with adapters: parallel ones stand around their block."""
    return [block.block if isinstance(block, ParallelAdapterBlock) else block for block in vit.blocks]


METHODS: Mapping[str, TuningMethod] = MappingProxyType(
    {
        "lora": _Peft(LINEAR, _lora),
        "rslora": _Peft(LINEAR, _rslora),
        "dora": _Peft(LINEAR, _dora),
        "ia3": _Peft(("attn.qkv", "mlp.fc2"), _ia3),
        "vera": _Peft(LINEAR, _vera),
        "ln": _Peft(NORMS, _ln),
        "repadapter": repadapter,
        "convpass": convpass.METHOD,
        **bottleneck.METHODS,
        "ssf": ssf.METHOD,
        "bitfit": bitfit.METHOD,
    }
)
"""Hu et al. 2022; Kalajdzievski 2023; Liu et al. 2024; Liu et al. 2022; Kopiczko et al. 2024; Zhao et al. 2024 (arXiv
2312.11420); Luo et al. 2023 (arXiv 2302.08106); Jie and Deng 2022 (arXiv 2207.07039); Chen et al. 2022 (arXiv
2205.13535); Houlsby et al. 2019 (arXiv 1902.00751); Steitz and Roth 2024 (arXiv 2406.06820); Lian et al. 2022 (arXiv
2210.08823); Ben Zaken et al. 2022 (arXiv 2106.10199)."""
CUSTOM_LOADERS: Mapping[str, Loader] = MappingProxyType(
    {CONVPASS: convpass.METHOD.load, BOTTLENECK: bottleneck.load, SSF: ssf.METHOD.load, BITFIT: bitfit.METHOD.load}
)
"""`peft_type` -> the function that loads the config and tensors of a checked folder, which PEFT cannot read."""


def build_adapted(backbone: Backbone, tuned: TunedModel) -> AdaptedModel:
    """Build the model of a tuned task, in float32 and eval mode, from the tensors as they were trained."""
    with torch.random.fork_rng(devices=()):
        vit = METHODS[tuned.method].wrap(backbone, tuned, torch.float32).vit
    return AdaptedModel(vit.eval(), linear(tuned.weight, tuned.bias))
