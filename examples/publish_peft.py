"""Publish an adapter that was made elsewhere with stock timm and PEFT, and take it out again byte for byte.

python examples/publish_peft.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import peft
import torch
from safetensors.torch import save_file

import onetrunk

BACKBONE = "onetrunk/vit_tiny_64.v2"
DEPTH = 8
CLASSES = ("circle", "square", "triangle")


def make_elsewhere(folder: Path) -> None:
    """Leave what a training script leaves: PEFT's two files, and beside them a linear head and its class names."""
    backbone = onetrunk.load_backbone(BACKBONE)
    modules = [f"blocks.{block}.attn.qkv" for block in range(DEPTH)]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=modules, init_lora_weights=False)
    peft.get_peft_model(backbone.build(), config).save_pretrained(folder)
    head = {"weight": torch.randn(len(CLASSES), backbone.record.dim), "bias": torch.zeros(len(CLASSES))}
    save_file(head, folder / "head.safetensors")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))


def main(folder: Path) -> None:
    made = folder / "made-elsewhere"
    make_elsewhere(made)
    with onetrunk.open_store(folder / "store", create=True) as store:
        onetrunk.adopt_backbone(store, BACKBONE)
        version = onetrunk.publish_folder(store, "shapes", made, backbone=BACKBONE, depth=DEPTH, aliases=("prod",))
        print(f"shapes:{version.number} sha256:{version.digest[:16]}… takes {version.nbytes:,} bytes")
        exported = store.export("shapes@prod", folder / f"exported-{version.number}")
    for name in ("adapter_config.json", "adapter_model.safetensors", "head.safetensors", "classes.txt"):
        same = (exported / name).read_bytes() == (made / name).read_bytes()
        print(f"{name}: {'the same bytes' if same else 'CHANGED'}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/publish_peft.py FOLDER")
    main(Path(sys.argv[1]))
