"""What tuning makes: PEFT's tensors for blocks 1..depth and a linear head, and the stock model they stand in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from store.backbones import Backbone

BLOCK = re.compile(r"\bblocks\.(\d+)\.")


@dataclass(frozen=True)
class Tuned:
    """LoRA tensors under PEFT's keys for blocks 1..depth, and the head: weight (classes, dim), bias (classes)."""

    depth: int
    rank: int
    adapter: Mapping[str, Tensor]
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Adapted:
    """logits = head(vit(x)): a timm model of blocks 1..depth with PEFT's layers in it, and its linear head."""

    vit: VisionTransformer
    head: nn.Linear


def block_of(path: str) -> int:
    """Return the block, counted from 1, that a module path or a tensor key belongs to."""
    found = BLOCK.search(path)
    assert found is not None, path
    return int(found[1]) + 1


def adapted_modules(backbone: Backbone, depth: int) -> list[str]:
    """List the linear maps of blocks 1..depth by full path: PEFT's short `proj` would also hit `patch_embed.proj`."""
    return sorted((path for path in backbone.record.modules if block_of(path) <= depth), key=lambda p: (block_of(p), p))


def lora_config(backbone: Backbone, *, depth: int, rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=adapted_modules(backbone, depth))


def trunk(backbone: Backbone, depth: int, dtype: torch.dtype = torch.float32) -> VisionTransformer:
    """Build blocks 1..depth; the output is the pooled, normalised feature."""
    model = backbone.build(dtype=dtype)
    model.blocks = model.blocks[:depth]
    return model


def wrap(backbone: Backbone, depth: int, rank: int, dtype: torch.dtype = torch.float32) -> PeftModel:
    """Put fresh LoRA layers of the same dtype into blocks 1..depth."""
    config = lora_config(backbone, depth=depth, rank=rank)
    return get_peft_model(trunk(backbone, depth, dtype), config, autocast_adapter_dtype=False).to(dtype)


def timm_model(peft: PeftModel) -> VisionTransformer:
    """Return the timm model that PEFT put its layers into, in eval mode."""
    return cast(VisionTransformer, peft.base_model.model).eval()


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """y = weight @ x + bias in float32."""
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return head
