"""One task as a plain timm model: the blocks up to its depth, its forms multiplied into their weights, and its head."""

from __future__ import annotations

import math
from typing import cast

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from store.errors import UnservedAdapterError
from store.records.backbone import PATCH_MEAN
from store.records.geometry import MERGE
from store.weights.description import NORM_EPS, Backbone, create_model
from store.weights.forms import Delta, TaskWeights
from store.weights.supported import TimmModel
from store.weights.trunk import cut

TIMM_EPS = 1e-6


def merged_arguments(backbone: Backbone, weights: TaskWeights) -> dict[str, object]:
    """Return the arguments of timm's `create_model` for the merged model."""
    known = backbone.record.id.arguments
    arguments = {key: value for key, value in known.items() if key not in (NORM_EPS, PATCH_MEAN)}
    if needs_bias(backbone, weights):
        arguments["qkv_bias"] = True
    geometry = backbone.record.geometry
    if geometry.staged:
        return {**arguments, **_stage_arguments(cast(SwinTransformer, cut(backbone.skeleton(), weights.depth)))}
    return {**arguments, "depth": weights.depth}


def _stage_arguments(swin: SwinTransformer) -> dict[str, object]:
    stages = list(swin.layers)
    return {
        "depths": [len(stage.blocks) for stage in stages],
        "num_heads": [stage.blocks[0].attn.num_heads for stage in stages],
        "window_size": [list(size) for size in swin._ref_window_sizes[: len(stages)]],
    }


def needs_bias(backbone: Backbone, weights: TaskWeights) -> bool:
    """Say whether the task adds a bias to a map that has none."""
    named = backbone.record.geometry.timm
    changed = [named(path) for path, delta in weights.forms.deltas.items() if delta.bias is not None]
    if any(path.endswith(f"{MERGE}.reduction") for path in changed):
        raise UnservedAdapterError("it adds a bias to a merge of patches, which has none in timm: export it as it is")
    return any(f"{path}.bias" not in backbone.tensors for path in changed)


@torch.no_grad()
def merge(backbone: Backbone, weights: TaskWeights) -> TimmModel:
    """Return a model of its own memory in float32, whose head's logits are the task's.

    `weights` are in float32 on the CPU. Raises `UnservedAdapterError` where no plain timm model
    computes what the task does.
    """
    forms = weights.forms
    if forms.bottlenecks:
        raise UnservedAdapterError(
            "its bottlenecks beside attention and the MLP cannot be multiplied into weights: export it as it is"
        )
    whole = create_model(backbone.record.id.architecture, merged_arguments(backbone, weights))
    state = backbone.build().state_dict()
    own = whole.state_dict()
    kept = {name: state[name] if name in state else torch.zeros_like(own[name]) for name in own}
    if backbone.record.geometry.ends_early(weights.depth):  # timm's norm there has weight and bias: they change nothing
        kept |= {"norm.weight": torch.ones_like(own["norm.weight"]), "norm.bias": torch.zeros_like(own["norm.bias"])}
    whole.load_state_dict(kept)
    named = backbone.record.geometry.timm
    for path, delta in forms.deltas.items():
        _merge_map(cast(nn.Linear, whole.get_submodule(named(path))), delta)
    for path, norm in forms.norms.items():
        at_head = path == "norm" and isinstance(whole.norm, nn.Identity)
        module = whole.fc_norm if at_head else whole.get_submodule(named(path))
        cast(nn.LayerNorm, module).load_state_dict({"weight": norm.weight, "bias": norm.bias})
    eps = backbone.record.id.arguments.get(NORM_EPS)
    if eps is not None and isinstance(whole, VisionTransformer):
        _scale_stream(whole, math.sqrt(TIMM_EPS / cast(float, eps)))
    return whole.eval().requires_grad_(False)


def with_head(vit: TimmModel, weights: TaskWeights) -> TimmModel:
    """Give the model the task's head, of as many features as it has; a distilled model gets it twice."""
    if weights.head_weight.shape[1] != vit.num_features:
        raise UnservedAdapterError(
            "its head reads the mean of the patches beside the class token, which no pooling of timm gives: export it "
            "as ONNX, or for transformers"
        )
    vit.reset_classifier(len(weights.head_weight))
    first = vit.head.fc if isinstance(vit, SwinTransformer) else vit.head
    heads = [first, *([vit.head_dist] if isinstance(getattr(vit, "head_dist", None), nn.Linear) else [])]
    for head in heads:
        cast(nn.Linear, head).load_state_dict({"weight": weights.head_weight, "bias": weights.head_bias})
    return vit.eval().requires_grad_(False)


class WideHead(nn.Module):
    """A model whose head reads the class token and the mean of the patches."""

    def __init__(self, vit: VisionTransformer, weights: TaskWeights) -> None:
        super().__init__()
        self.vit = vit
        self.head = nn.Linear(weights.head_weight.shape[1], len(weights.head_weight))
        self.head.load_state_dict({"weight": weights.head_weight, "bias": weights.head_bias})

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.vit.forward_features(images)
        features = torch.cat([tokens[:, 0], tokens[:, self.vit.num_prefix_tokens :].mean(dim=1)], dim=1)
        return cast(Tensor, self.head(features))


def _merge_map(module: nn.Linear, delta: Delta) -> None:
    """Multiply a change into a linear map, as `Delta` says it."""
    weight, bias = module.weight.data.clone(), torch.zeros(module.out_features)
    if module.bias is not None:
        bias = module.bias.data.clone()
    if delta.in_turn is not None:
        turns = delta.in_turn[0]
        parts = weight.reshape(len(weight), *turns.shape[:2])
        weight = torch.einsum("opc,pkc->opk", parts, turns).flatten(1)
    if delta.in_scale is not None:
        weight = weight * delta.in_scale.reshape(1, -1)
    plain = torch.cat([weight, bias[:, None]], dim=1)  # the bias is one more input, which is 1
    changed = plain if delta.out_scale is None else plain * delta.out_scale.reshape(-1, 1)
    if delta.out_turn is not None:
        exchanged = plain.reshape(-1, 2, delta.group // 2, plain.shape[1]).flip(1).flatten(0, 2)
        changed = changed + delta.out_turn.reshape(-1, 1) * exchanged
    weight, bias = changed[:, :-1], changed[:, -1]
    if delta.a is not None and delta.b is not None:
        weight = weight + delta.b[0] @ delta.a[0]
    if delta.bias is not None:
        bias = bias + delta.bias.reshape(-1)
    module.weight.data = weight.contiguous()
    if module.bias is not None:
        module.bias.data = bias.contiguous()


def _scale_stream(vit: VisionTransformer, factor: float) -> None:
    """Scale all that is added to the tokens, so that norms with timm's eps give what those with a smaller one did."""
    ends = [part for block in vit.blocks for part in ((block.attn.proj, block.ls1), (block.mlp.fc2, block.ls2))]
    tensors = [vit.cls_token, vit.pos_embed, vit.reg_token, vit.patch_embed.proj.weight, vit.patch_embed.proj.bias]
    for linear, scale in ends:
        tensors += [linear.weight, linear.bias] if isinstance(scale, nn.Identity) else [scale.gamma]
    for tensor in tensors:
        if tensor is not None:
            tensor.data *= factor
