"""The slow twin: tasks made by stock PEFT, answered one at a time by stock timm and PEFT."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import peft
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from sls.adapters.model import suppress_peft_warnings
from store.records.tokens import TokenIndex
from store.registry.store import Store
from store.weights.backbones import Backbone, encode, load_backbone
from store.weights.forms import TaskWeights
from store.weights.lowering.lower import lower
from support.token_twin import take_out

MOVED = 0.1
MODULES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class TaskFolder:
    """A task's folder, and its depth."""

    folder: Path
    depth: int


def make_backbone(folder: Path, **arguments: object) -> Backbone:
    """Build a small ViT with random weights through a local file: four blocks, 32 x 32 pixels by default."""
    options = {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 48, "num_heads": 3, **arguments}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    return load_backbone(
        "vit_tiny_patch16_224", weights=folder / "model.safetensors", arguments=options, label="random/vit"
    )


@dataclass(frozen=True)
class Shop:
    """An open store that holds the backbone."""

    store: Store
    backbone: Backbone


@contextmanager
def open_shop(folder: Path, **arguments: object) -> Iterator[Shop]:
    """Make a backbone, with arguments as for `make_backbone`, and a store for it in the folder."""
    backbone = make_backbone(folder / "backbone", **arguments)
    with Store.open(folder / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        yield Shop(store, backbone)


def make_task(
    backbone: Backbone,
    folder: Path,
    *,
    depth: int,
    classes: int,
    rank: int = 4,
    modules: Sequence[str] = MODULES,
    seed: int = 0,
    **options: object,
) -> TaskFolder:
    """Save a PEFT LoRA with random weights on blocks 1..depth, and a random head, as `publish` takes them."""
    torch.manual_seed(seed)
    targets = [f"blocks.{block}.{module}" for block in range(depth) for module in modules]
    config = peft.LoraConfig(**{"r": rank, "lora_alpha": 2 * rank, "target_modules": targets, **options})
    model = peft.get_peft_model(backbone.build(), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.05)
    model.save_pretrained(folder)
    head = {"weight": torch.randn(classes, backbone.record.dim), "bias": torch.randn(classes)}
    save_file(head, folder / "head.safetensors")
    (folder / "classes.txt").write_text("".join(f"class {index}\n" for index in range(classes)))
    return TaskFolder(folder, depth)


def make_peft_task(
    backbone: Backbone, made: TaskFolder, config: peft.PeftConfig, *, classes: int, seed: int = 0
) -> TaskFolder:
    """Save any method of stock PEFT with trainable tensors that were moved at random, and a random head."""
    torch.manual_seed(seed)
    vit = backbone.build()
    del vit.blocks[made.depth :]
    with suppress_peft_warnings():
        model = peft.get_peft_model(vit, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                # one number for a whole map moves all of it
                parameter.data.add_(torch.randn_like(parameter), alpha=MOVED / (10 if parameter.numel() == 1 else 1))
        model.save_pretrained(made.folder)
    head = {"weight": torch.randn(classes, backbone.record.dim), "bias": torch.randn(classes)}
    save_file(head, made.folder / "head.safetensors")
    (made.folder / "classes.txt").write_text("".join(f"class {index}\n" for index in range(classes)))
    return made


def make_random_task(backbone: Backbone, folder: Path, seed: int) -> TaskFolder:
    """Draw ranks 2 to 32, depths 1 to all, 2 to 200 classes, one to four kinds of modules."""
    draw = random.Random(seed)
    return make_task(
        backbone,
        folder,
        depth=draw.randint(1, backbone.record.blocks),
        classes=draw.randint(2, 200),
        rank=draw.randint(2, 32),
        modules=draw.sample(MODULES, draw.randint(1, 4)),
        use_rslora=draw.random() < 0.3,
        seed=seed,
    )


def lowered(backbone: Backbone, made: TaskFolder, dtype: torch.dtype = torch.float32) -> TaskWeights:
    read = {name: (made.folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}
    return lower(
        config=read["adapter_config.json"],
        adapter=read["adapter_model.safetensors"],
        head=(made.folder / "head.safetensors").read_bytes(),
        labels=(made.folder / "classes.txt").read_bytes(),
        depth=made.depth,
        backbone=backbone.tensors,
        dtype=dtype,
    )


@torch.inference_mode()
def reference_logits(
    backbone: Backbone,
    made: TaskFolder,
    images: Tensor,
    dtype: torch.dtype = torch.float32,
    tokens: TokenIndex | None = None,
) -> list[Tensor]:
    """Logits (classes,) of each image (n, 3, H, W): blocks 1..depth of stock timm, stock PEFT upon them, the head."""
    vit = backbone.build(dtype=dtype)
    del vit.blocks[made.depth :]
    with suppress_peft_warnings():
        model = peft.PeftModel.from_pretrained(vit, made.folder, autocast_adapter_dtype=False).to(dtype).eval()
    take_out(model.base_model.model, tokens)
    head = load_file(made.folder / "head.safetensors")
    weight, bias = head["weight"].to(dtype), head["bias"].to(dtype)
    return list(torch.nn.functional.linear(model(images.to(dtype)), weight, bias).float())


def png(pixels: Tensor) -> bytes:
    """Encode (H, W, 3) uint8 pixels."""
    out = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(out, "PNG")
    return out.getvalue()
