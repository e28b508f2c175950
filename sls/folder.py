"""A task's folder: PEFT's own two files, the head, the class names, and the card."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
from peft import PeftModel
from safetensors.torch import load_file, save
from torch import Tensor

from sls.adapted import Adapted, Tuned, adapted_modules, linear, lora_config, timm_model, trunk
from store.backbones import Backbone
from store.checkpoint import CARD, CONFIG, HEAD, LABELS, WEIGHTS, read_checkpoint
from store.errors import BackboneMismatchError, FormatError
from store.methods import served_method
from store.records import Card


def write_folder(folder: Path, backbone: Backbone, tuned: Tuned, classes: tuple[str, ...]) -> None:
    """Write all but the card, and remove one that is there; equal tensors give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    config = lora_config(backbone, depth=tuned.depth, rank=tuned.rank).to_dict()  # type: ignore[no-untyped-call]  # PEFT leaves it untyped
    # PEFT keeps the paths as a set, whose order changes from process to process
    config |= {"target_modules": adapted_modules(backbone, tuned.depth), "inference_mode": True}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / WEIGHTS).write_bytes(_encode(dict(tuned.adapter)))
    (folder / HEAD).write_bytes(_encode({"weight": tuned.weight, "bias": tuned.bias}))
    (folder / LABELS).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


def write_card(folder: Path, card: Card) -> None:
    (folder / CARD).write_bytes(card.to_json())


def backbone_of(folder: Path) -> str:
    """Return the fingerprint of the backbone that a task's folder says it was made on."""
    card = _read_card(folder)
    if card is None:
        raise FormatError(f"{folder} has no {CARD}, so its backbone is not known: name the backbone")
    return card.backbone


def read_folder(folder: Path, backbone: Backbone, *, depth: int | None = None) -> Adapted:
    """Load blocks 1..depth through stock PEFT; as many as the card says, or all, where no depth is given."""
    checkpoint, fingerprint = read_checkpoint(folder), backbone.record.id.fingerprint
    served_method(checkpoint.settings)  # PEFT would read a pickle, or files that other options name
    card = checkpoint.card
    if card is not None and card.backbone != fingerprint:
        raise BackboneMismatchError(
            f"{folder} was made on backbone {card.backbone[:12]}, not {fingerprint[:12]}: give the one it was made on"
        )
    if depth is None:
        depth = card.prune_index.depth if card else backbone.record.blocks
    try:
        peft = PeftModel.from_pretrained(trunk(backbone, depth), str(folder))
        head = load_file(folder / HEAD)
        return Adapted(timm_model(peft), linear(head["weight"], head["bias"]))
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        line = str(error).splitlines()[0]
        raise FormatError(f"{folder} cannot be read ({line}): give a PEFT folder with {HEAD}") from None


def _read_card(folder: Path) -> Card | None:
    path = folder / CARD
    return Card.from_json(path.read_bytes()) if path.is_file() else None


def _encode(tensors: dict[str, Tensor]) -> bytes:
    # one metadata key: with more, safetensors writes them in an order that changes
    data: bytes = save({key: value.contiguous() for key, value in tensors.items()}, metadata={"format": "pt"})
    return data
