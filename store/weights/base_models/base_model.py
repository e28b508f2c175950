"""A base model of transformers (ViT, DeiT, DINOv2 with and without registers) as a backbone in timm's layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from store.adapters.module_names import FAMILIES, LAYER, SEPARATE, TAILS
from store.adapters.task_files import MODEL, MODEL_CONFIG, PROCESSOR, label_names, read_file
from store.errors import BackboneNotFoundError, FormatError, UnservedBackboneError
from store.records.backbone import PATCH_MEAN, TRANSFORMERS, Preprocessing
from store.weights.base_models.image_processor import parse_processor, preprocessing_of
from store.weights.description import NORM_EPS, Backbone, create_model, describe, without_classifier

LOCAL, HUB = "local-dir:", "hf-hub:"
ARCHITECTURES = {192: "vit_tiny_patch16_224", 384: "vit_small_patch16_224", 1024: "vit_large_patch16_224"}
ACTIVATIONS = {"gelu": None, "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
TIMM_EPS = 1e-6
REMEDY = "use a ViT, DeiT or DINOv2 of transformers, or a timm VisionTransformer"
FAMILY = re.compile(rf"^(?:{'|'.join(FAMILIES)})\.")
EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.distillation_token": "reg_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
UNUSED = ("pooler.", "embeddings.mask_token", "classifier.", "decoder.")
"""What no classifier on the class token reads, and the classifier itself."""

Tensors = Mapping[str, Tensor]
Config = Mapping[str, object]


@dataclass(frozen=True)
class BaseModel:
    """A backbone, and what else its folder says: the classifier, the class names and how images are prepared."""

    backbone: Backbone
    family: str
    head: Tensors | None
    labels: list[str] | None


def base_folder(name: str) -> Path | None:
    """Return the folder of a model of transformers, fetched if it is on the Hub; None where it is another model."""
    if name.startswith(HUB):
        return _fetch(name.removeprefix(HUB))
    folder = Path(name.removeprefix(LOCAL))
    return folder if folder.is_dir() and _is_transformers(folder) else None


def load_base(folder: Path, *, source: str, label: str | None = None, processor: bytes | None = None) -> BaseModel:
    """Convert the model in this folder; `processor` is the image processor's file where the folder has none.

    Raises `UnservedBackboneError` where timm's layout cannot hold it, `FormatError` where a file is not whole.
    """
    config = _read_config(folder)
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise UnservedBackboneError(f"{folder} holds a model of type {family[:40]!r}, which is not converted: {REMEDY}")
    preprocessing = _preprocessing(folder, processor)
    loaded = _load_tensors(folder)
    stored = {FAMILY.sub("", name): tensor for name, tensor in loaded.items()}
    tensors = _as_timm(stored, config, family, preprocessing)
    architecture, arguments = _architecture(config, family, preprocessing, tensors)
    with torch.device("meta"):
        model = create_model(architecture, arguments)
    tensors = without_classifier(tensors, model, str(folder / MODEL))
    name = label or (source if source.startswith(HUB) else _label(folder))
    source = source if source.startswith((HUB, LOCAL)) else f"{LOCAL}{folder.resolve()}"
    backbone = describe(name, model, tensors, arguments, source=f"{TRANSFORMERS}{source}", preprocessing=preprocessing)
    head = {part: stored[f"classifier.{part}"] for part in ("weight", "bias") if f"classifier.{part}" in stored}
    return BaseModel(backbone, family, head if len(head) == 2 else None, label_names(config))


def _label(folder: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name).lstrip(".-_") or "base-model"


def _is_transformers(folder: Path) -> bool:
    return (
        (folder / MODEL_CONFIG).is_file()
        and "architecture" not in (config := _read_config(folder))
        and ("model_type" in config)
    )


def _read_config(folder: Path) -> Config:
    try:
        config = json.loads(read_file(folder / MODEL_CONFIG))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{folder / MODEL_CONFIG} is not JSON ({error}): save the model again") from None
    if not isinstance(config, dict):
        raise FormatError(f"{folder / MODEL_CONFIG} is not an object: save the model again")
    return config


def _fetch(repository: str) -> Path | None:
    """Fetch a model of transformers from the Hub, its safetensors alone; None where it is timm's, or not reached."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    name, _, revision = repository.partition("@")
    unreached = (HfHubHTTPError, OSError, ValueError)
    try:
        folder = Path(hf_hub_download(name, MODEL_CONFIG, revision=revision or None)).parent
    except unreached:
        return None
    if not _is_transformers(folder):
        return None
    try:
        for file in (PROCESSOR, MODEL):
            hf_hub_download(name, file, revision=revision or None)
    except unreached as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BackboneNotFoundError(
            f"backbone {HUB + repository!r} cannot be loaded ({line}): check the name and the network, or give a folder"
        ) from None
    return folder


def _load_tensors(folder: Path) -> dict[str, Tensor]:
    if not (folder / MODEL).is_file():
        raise BackboneNotFoundError(
            f"{folder} has no {MODEL}, and a pickle or a model in parts is not read: save it as one safetensors file"
        )
    try:
        return load_file(folder / MODEL)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{folder / MODEL} is not a whole safetensors file ({error}): fetch it again") from None


def _preprocessing(folder: Path, processor: bytes | None) -> Preprocessing:
    own = folder / PROCESSOR
    given = None if processor is None else preprocessing_of(parse_processor(processor, PROCESSOR), PROCESSOR)
    if not own.is_file():
        if given is None:
            raise UnservedBackboneError(
                f"{folder} has no {PROCESSOR}, so that nothing says how images are prepared: save the image processor "
                "there too"
            )
        return given
    preprocessing = preprocessing_of(parse_processor(read_file(own), str(own)), str(own))
    if given is not None and given != preprocessing:
        raise UnservedBackboneError(
            f"the task's {PROCESSOR} prepares images otherwise than {own} ({given} and {preprocessing}), and all tasks "
            "of a backbone share its input: save the base model with the task's image processor"
        )
    return preprocessing


def _as_timm(stored: Tensors, config: Config, family: str, preprocessing: Preprocessing) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        match = LAYER.search(name)
        if match is None:
            if not name.startswith(UNUSED):
                tensors[EMBEDDINGS.get(name, name)] = tensor
            continue
        module, _, part = match["tail"].rpartition(".")
        block = f"blocks.{match['number']}"
        kind = {"layer_scale1": "ls1.gamma", "layer_scale2": "ls2.gamma"}.get(
            module
        ) or f"{TAILS.get(module, module)}.{part}"
        if kind.rpartition(".")[0] in SEPARATE:
            parts.setdefault(f"{block}.attn.qkv.{part}", {})[kind.rpartition(".")[0]] = tensor
        else:
            tensors[f"{block}.{kind}"] = tensor
    for name, three in parts.items():
        if three.keys() == set(SEPARATE):
            tensors[name] = torch.cat([three[kind] for kind in SEPARATE])
    if "pos_embed" in tensors and "cls_token" in tensors:
        _fit_positions(tensors, config, family, preprocessing)
    return tensors


def _fit_positions(tensors: dict[str, Tensor], config: Config, family: str, preprocessing: Preprocessing) -> None:
    """Bring the position embeddings to the input's size as DINOv2 does, and where there are registers to the patches.

    DINOv2 adds its registers after the positions; timm then keeps the class token's position in the token itself.
    """
    size, patch = (preprocessing.height, preprocessing.width), _pair(config, "patch_size", 16)
    positions, prefix = tensors["pos_embed"], 2 if family == "deit" else 1
    if size != _pair(config, "image_size", 224):
        if not family.startswith("dinov2"):
            raise UnservedBackboneError(
                f"the image processor gives {size[0]} x {size[1]} pixels, the model takes "
                f"{config.get('image_size', 224)}: save the processor that the model was trained with"
            )
        side = int((positions.shape[1] - prefix) ** 0.5)
        grid = positions[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
        target = (size[0] // patch[0], size[1] // patch[1])
        antialias = family == "dinov2_with_registers"
        grid = F.interpolate(grid, size=target, mode="bicubic", align_corners=False, antialias=antialias)
        grid = grid.to(positions.dtype).permute(0, 2, 3, 1).flatten(1, 2)
        positions = torch.cat([positions[:, :prefix], grid], dim=1)
    if family == "dinov2_with_registers":
        tensors["cls_token"] = tensors["cls_token"] + positions[:, :1]
        positions = positions[:, 1:]
    tensors["pos_embed"] = positions.contiguous()


def _architecture(
    config: Config, family: str, preprocessing: Preprocessing, tensors: Tensors
) -> tuple[str, dict[str, object]]:
    dim, depth, heads = (
        _integer(config, key, default)
        for key, default in (("hidden_size", 768), ("num_hidden_layers", 12), ("num_attention_heads", 12))
    )
    hidden = int(dim * float(_integer(config, "mlp_ratio", 4)))
    if not family.startswith("dinov2"):
        hidden = _integer(config, "intermediate_size", 4 * dim)
    act = str(config.get("hidden_act", "gelu"))
    if config.get("use_swiglu_ffn") or act not in ACTIVATIONS or config.get("num_channels", 3) != 3:
        problem = "a gated MLP" if config.get("use_swiglu_ffn") else f"activation {act[:40]!r} or other than 3 channels"
        raise UnservedBackboneError(f"the base model has {problem}, which is not served: {REMEDY}")
    patch = _pair(config, "patch_size", 16)
    arguments: dict[str, object] = {
        "img_size": [preprocessing.height, preprocessing.width],
        "patch_size": patch[0] if patch[0] == patch[1] else list(patch),
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": hidden / dim,
        "qkv_bias": config.get("qkv_bias", True) is True,
    }
    eps = config.get("layer_norm_eps", TIMM_EPS if family.startswith("dinov2") else 1e-12)
    optional = {
        "act_layer": ACTIVATIONS[act],
        NORM_EPS: None if eps == TIMM_EPS else eps,
        "init_values": 1.0 if family.startswith("dinov2") else None,
        "reg_tokens": tensors["reg_token"].shape[1] if "reg_token" in tensors else None,
        PATCH_MEAN: True if family.startswith("dinov2") else None,
        "no_embed_class": True if family == "dinov2_with_registers" else None,
    }
    arguments |= {key: value for key, value in optional.items() if value is not None}
    return ARCHITECTURES.get(dim, "vit_base_patch16_224"), arguments


def _integer(config: Config, key: str, default: int) -> int:
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 < cast(float, value) < 1 << 20 or cast(float, value) % 1:
        raise FormatError(
            f"{MODEL_CONFIG} has {key} = {str(value)[:40]}: expected a whole number; save the model again"
        )
    return int(cast(float, value))


def _pair(config: Config, key: str, default: int) -> tuple[int, int]:
    value = config.get(key, default)
    both = value if isinstance(value, list) and len(value) == 2 else [value, value]
    height, width = (_integer({key: side}, key, default) for side in both)
    return height, width
