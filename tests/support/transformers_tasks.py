"""Small random models of transformers, tasks that stock PEFT leaves on them, and their own logits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from peft import IA3Config, LNTuningConfig, PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from sls.adapters.model import suppress_peft_warnings

DIM, BLOCKS, SIZE, CLASSES = 48, 3, 32, 3
COMMON = {"hidden_size": DIM, "num_hidden_layers": BLOCKS, "num_attention_heads": 3, "patch_size": 8}
NAMES = {"id2label": {0: "rose", 1: "tulip", 2: "poppy"}, "label2id": {"rose": 0, "tulip": 1, "poppy": 2}}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 2,
    "size": {"height": SIZE, "width": SIZE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}

FAMILIES: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "vit": lambda: ViTForImageClassification(ViTConfig(**COMMON, **NAMES, image_size=SIZE, intermediate_size=96)),
        "deit": lambda: DeiTForImageClassification(
            DeiTConfig(**COMMON, **NAMES, image_size=SIZE, intermediate_size=96, qkv_bias=False)
        ),
        "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**COMMON, **NAMES, image_size=40, mlp_ratio=2)),
        "dinov2_with_registers": lambda: Dinov2WithRegistersForImageClassification(
            Dinov2WithRegistersConfig(**COMMON, **NAMES, image_size=40, mlp_ratio=2, num_register_tokens=3)
        ),
    }
)
MODULES = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
CLASSIC = (
    *(("attention.q_proj", "attention.attention.query"), ("attention.k_proj", "attention.attention.key")),
    *(("attention.v_proj", "attention.attention.value"), ("attention.o_proj", "attention.output.dense")),
    *(("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"), ("vit.layers.", "vit.encoder.layer.")),
)
"""How version 5 of transformers names the modules of a ViT, and how those before it did."""


@dataclass(frozen=True)
class Tuned:
    """A folder of PEFT and the model that it was saved from."""

    folder: Path
    model: nn.Module

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


def make_base(folder: Path, family: str, *, seed: int = 0) -> nn.Module:
    """Save a base model with random weights and its image processor; return it."""
    torch.manual_seed(seed)
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model


def paths(family: str, modules: Sequence[str] = MODULES, blocks: Sequence[int] = range(BLOCKS)) -> list[str]:
    blocks_path = f"{family}.encoder.layer" if family.startswith("dinov2") else f"{family}.layers"
    return [f"{blocks_path}.{block}.{module}" for block in blocks for module in modules]


def tune(folder: Path, model: nn.Module, config: PeftConfig, *, seed: int = 0, moved: float = 0.1) -> Tuned:
    """Adapt the model with all trainable tensors moved at random, and save what PEFT saves of it."""
    torch.manual_seed(seed)
    config.modules_to_save = ["classifier"]
    with suppress_peft_warnings():
        adapted = get_peft_model(model, config).eval()
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                less = 10 if parameter.numel() == 1 else 1
                more = 5 if "classifier" in name else 1
                parameter.data.add_(torch.randn_like(parameter), alpha=moved * more / less)
        adapted.save_pretrained(folder)
    return Tuned(folder, adapted)


def ia3(family: str) -> IA3Config:
    targets = paths(family, MODULES[1:])
    return IA3Config(target_modules=targets, feedforward_modules=[path for path in targets if path.endswith("fc2")])


def ln(family: str) -> LNTuningConfig:
    norms = "norm[12]" if family.startswith("dinov2") else "layernorm_(?:before|after)"
    return LNTuningConfig(target_modules=rf"{family}\.(?:layernorm|.*\.{norms})")


def rename(folder: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Replace parts of the names of modules, in the adapter's tensors and in its config."""

    def renamed(text: str) -> str:
        for old, new in pairs:
            text = text.replace(old, new)
        return text

    config = folder / "adapter_config.json"
    config.write_text(renamed(config.read_text()))
    weights = folder / "adapter_model.safetensors"
    save_file({renamed(name): tensor for name, tensor in load_file(weights).items()}, weights)
