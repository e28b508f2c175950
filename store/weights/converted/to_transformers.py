"""A timm ViT as a model of transformers: its config, its tensors and its image processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from timm.layers import GELU, GELUTanh, LayerScale, QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from store.adapters.module_names import SEPARATE, SPELLINGS
from store.errors import UnservedBackboneError
from store.images.fitting import resized_size
from store.records.backbone import Preprocessing
from store.weights.base_models.image_processor import RESAMPLING

CLASSES = {
    "vit": "ViTForImageClassification",
    "deit": "DeiTForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
    "dinov2_with_registers": "Dinov2WithRegistersForImageClassification",
}
ACTIVATIONS = {nn.GELU: "gelu", GELU: "gelu", GELUTanh: "gelu_pytorch_tanh", QuickGELU: "quick_gelu"}

Tensors = Mapping[str, Tensor]


def family_of(vit: VisionTransformer, name: str) -> str:
    """Return the family whose model computes the same; raise `UnservedBackboneError` where none does."""
    block = vit.blocks[0]
    scaled = isinstance(block.ls1, LayerScale)
    problem = _problem(vit)
    if problem is None and vit.num_reg_tokens and not vit.no_embed_class:
        problem = None if vit.num_reg_tokens == 1 and not scaled else "registers with positions"
    if problem is not None:
        raise UnservedBackboneError(
            f"backbone {name!r} has {problem}, which no ViT, DeiT or DINOv2 of transformers has: export it for timm"
        )
    if vit.num_reg_tokens:
        return "dinov2_with_registers" if vit.no_embed_class else "deit"
    return "dinov2" if scaled else "vit"


def _problem(vit: VisionTransformer) -> str | None:
    block = vit.blocks[0]
    inner = (vit.norm_pre, vit.fc_norm, block.attn.q_norm, block.attn.norm, block.mlp.norm)
    if type(vit) is not VisionTransformer or vit.global_pool != "token" or vit.pos_embed is None:
        return f"pooling {vit.global_pool!r} or tokens of its own"
    if not all(isinstance(norm, nn.Identity) for norm in inner) or isinstance(vit.norm, nn.Identity):
        return "norms elsewhere"
    if type(block.mlp.act) not in ACTIVATIONS:
        return f"activation {type(block.mlp.act).__name__}"
    return None


def model_config(
    vit: VisionTransformer, family: str, preprocessing: Preprocessing, labels: Sequence[str], depth: int
) -> dict[str, object]:
    """Return the config of the model of the first blocks with these classes."""
    block = vit.blocks[0]
    hidden = block.mlp.fc1.out_features
    config: dict[str, object] = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": depth,
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": ACTIVATIONS[type(block.mlp.act)],
        "layer_norm_eps": block.norm1.eps,
        "image_size": _side((preprocessing.height, preprocessing.width)),
        "patch_size": _side(vit.patch_embed.patch_size),
        "num_channels": 3,
        "qkv_bias": block.attn.qkv.bias is not None,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "torch_dtype": "float32",
    }
    if not family.startswith("dinov2"):
        return {**config, "intermediate_size": hidden}
    if hidden % vit.embed_dim:
        raise UnservedBackboneError(
            f"an MLP of {hidden} on {vit.embed_dim} does not occur in DINOv2: export it for timm"
        )
    registers = {"num_register_tokens": vit.num_reg_tokens} if vit.num_reg_tokens else {}
    return {**config, "mlp_ratio": hidden // vit.embed_dim, "use_swiglu_ffn": False, **registers}


def model_tensors(vit: VisionTransformer, family: str, depth: int, head: Tensors) -> dict[str, Tensor]:
    """Return the tensors as transformers has spelled them since the first ViT, with the task's head as classifier."""
    state = {name: tensor.float() for name, tensor in vit.state_dict().items()}
    stem, dim = f"{family}.embeddings", vit.embed_dim
    positions = state["pos_embed"]
    if vit.no_embed_class:  # the class token has its position in itself
        positions = torch.cat([positions.new_zeros(1, 1, dim), positions], dim=1)
    tensors = {
        f"{stem}.cls_token": state["cls_token"],
        f"{stem}.position_embeddings": positions,
        f"{stem}.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        f"{stem}.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        f"{family}.layernorm.weight": state["norm.weight"],
        f"{family}.layernorm.bias": state["norm.bias"],
    }
    if "reg_token" in state:
        tensors[f"{stem}.{'distillation_token' if family == 'deit' else 'register_tokens'}"] = state["reg_token"]
    if family.startswith("dinov2"):
        tensors[f"{stem}.mask_token"] = positions.new_zeros(1, dim)
    spelling = next(spelling for names, spelling in SPELLINGS if family in names)
    for number in range(depth):
        layer = f"{family}.encoder.layer.{number}"
        for name, tensor in state.items():
            kind = name.removeprefix(f"blocks.{number}.")
            if kind != name:
                tensors |= {f"{layer}.{new}": part for new, part in _in_block(kind, tensor, spelling).items()}
        for index in (1, 2) if family.startswith("dinov2") else ():
            tensors.setdefault(f"{layer}.layer_scale{index}.lambda1", torch.ones(dim))
    weight, bias = wide_head(head, dim, family)
    tensors |= {"classifier.weight": weight, "classifier.bias": bias}
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def wide_head(head: Tensors, dim: int, family: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a family's classifier: DINOv2's also reads the mean of the patches."""
    weight = head["weight"].float()
    if family.startswith("dinov2") and weight.shape[1] == dim:
        weight = torch.cat([weight, torch.zeros_like(weight)], dim=1)
    return weight, head["bias"].float()


def _in_block(kind: str, tensor: Tensor, spelling: Mapping[str, str]) -> dict[str, Tensor]:
    module, _, part = kind.rpartition(".")
    if module == "attn.qkv":
        return {f"{spelling[name]}.{part}": third for name, third in zip(SEPARATE, tensor.chunk(3), strict=True)}
    scales = {"ls1": "layer_scale1.lambda1", "ls2": "layer_scale2.lambda1"}
    return {scales[module] if module in scales else f"{spelling[module]}.{part}": tensor}


def image_processor(preprocessing: Preprocessing) -> dict[str, object]:
    """Return the image processor that prepares images as the backbone takes them."""
    p = preprocessing
    resized = resized_size((p.width, p.height), p)
    crop = {"height": p.height, "width": p.width}
    if p.crop_mode == "squash":
        size = {"height": resized[1], "width": resized[0]}
    elif p.crop_mode == "center" and p.height == p.width:
        size = {"shortest_edge": resized[0]}
    else:
        raise UnservedBackboneError(
            f"crop mode {p.crop_mode!r} to {p.width} x {p.height} is not a crop of transformers: export it for timm"
        )
    cropped = "shortest_edge" in size or size != crop
    return {
        "image_processor_type": "BitImageProcessor" if cropped else "ViTImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": next(number for number, name in RESAMPLING.items() if name == p.interpolation),
        "do_center_crop": cropped,
        "crop_size": crop,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(p.mean),
        "image_std": list(p.std),
    }


def _side(sides: tuple[int, int]) -> int | list[int]:
    return sides[0] if sides[0] == sides[1] else list(cast(Sequence[int], sides))
