"""A small Swin with random weights, tasks on it by stock PEFT, and the slow twin: stock timm built at the depth."""

from __future__ import annotations

import random
from pathlib import Path

import peft
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from sls.adapters.model import suppress_peft_warnings
from store.weights.backbones import Backbone, load_backbone
from store.weights.trunk import cut
from support.oracle import TaskFolder
from support.peft_tasks import CONFIGS

SWIN = "swin_tiny_patch4_window7_224"
SMALL = {
    "img_size": 36,
    "patch_size": 4,
    "window_size": 3,
    "embed_dim": 16,
    "depths": [2, 3, 1],
    "num_heads": [2, 4, 4],
}
KINDS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
DROPPED = {"ln", "miss, mini", "oft, shared", "gralora, hybrid"}  # norms, and sizes that no map here has
PRODUCTS = {"gralora", "loha", "lokr", "lokr, by 4"}  # of higher rank than maps of 16 and 32 allow
METHODS = tuple(name for name in CONFIGS if name not in DROPPED | PRODUCTS)


def make_swin(folder: Path, **arguments: object) -> Backbone:
    """Build a Swin with random weights through a local file; 9 x 9 patches in windows of 3, blocks 2 + 3 + 1."""
    options = {**SMALL, **arguments}
    torch.manual_seed(0)
    model = timm.create_model(SWIN, num_classes=0, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    return load_backbone(SWIN, weights=folder / "model.safetensors", arguments=options, label="random/swin")


def stock(backbone: Backbone, depth: int) -> torch.nn.Module:
    """Build timm's own Swin of that many blocks; a stage that is not the last has a norm of weight 1 and bias 0."""
    known, left, depths = backbone.record.id.arguments, depth, []
    for count in known["depths"]:
        depths += [min(count, left)] if left else []
        left -= min(count, left)
    heads = known["num_heads"][: len(depths)]
    options = {**known, "depths": depths, "num_heads": heads}
    model = timm.create_model(SWIN, num_classes=0, **options)
    state = model.state_dict()
    kept = {name: backbone.tensors[name] for name in state if name not in ("norm.weight", "norm.bias")}
    if len(depths) == len(known["depths"]):
        kept |= {name: backbone.tensors[name] for name in ("norm.weight", "norm.bias")}
    else:
        kept |= {
            "norm.weight": torch.ones_like(state["norm.weight"]),
            "norm.bias": torch.zeros_like(state["norm.bias"]),
        }
    model.load_state_dict(kept)
    return model.eval().requires_grad_(False)


def write_head(backbone: Backbone, folder: Path, *, depth: int, classes: int = 3) -> TaskFolder:
    width = backbone.record.width_at(depth)
    save_file({"weight": torch.randn(classes, width), "bias": torch.randn(classes)}, folder / "head.safetensors")
    (folder / "classes.txt").write_text("".join(f"class {index}\n" for index in range(classes)))
    return TaskFolder(folder, depth)


def save_task(backbone: Backbone, folder: Path, config: peft.PeftConfig, *, depth: int, seed: int = 0) -> TaskFolder:
    """Save what stock PEFT trains of the cut Swin, moved at random, and a random head."""
    torch.manual_seed(seed)
    with suppress_peft_warnings():
        model = peft.get_peft_model(cut(backbone.build(), depth), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1 / (10 if parameter.numel() == 1 else 1))
        model.save_pretrained(folder)
    return write_head(backbone, folder, depth=depth)


def random_task(backbone: Backbone, folder: Path, name: str, seed: int) -> TaskFolder:
    """Draw a depth, three blocks, a rank and, above the first stage, the merges before stages."""
    draw, paths = random.Random(seed), backbone.record.geometry.paths
    depth = draw.randint(1, len(paths))
    chosen = {paths[draw.randrange(depth)] for _ in range(3)}
    targets = [f"{block}.{kind}" for block in sorted(chosen) for kind in KINDS]
    # PEFT's GLoRA stores other parts of a map without bias, and its OFT takes the merge for a convolution
    if not name.startswith(("glora", "oft")):
        merges = [path for path in backbone.record.modules if path.endswith("reduction")]
        targets += [path for path in merges if backbone.record.geometry.number(path) <= depth]
    config = CONFIGS[name](targets, draw.choice([2, 3, 4, 8]))
    return save_task(backbone, folder, config, depth=depth, seed=seed)


@torch.inference_mode()
def stock_logits(backbone: Backbone, made: TaskFolder, images: Tensor) -> Tensor:
    """Logits (n, classes): stock timm of the depth, stock PEFT upon it, the head."""
    with suppress_peft_warnings():
        model = peft.PeftModel.from_pretrained(stock(backbone, made.depth), made.folder).eval()
    head = load_file(made.folder / "head.safetensors")
    return F.linear(model(images), head["weight"].float(), head["bias"].float())
