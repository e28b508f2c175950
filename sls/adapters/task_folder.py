"""A task's folder: PEFT's own two files, or ours in their place, the head, the class names, and the card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import safetensors
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load, save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from sls.adapters.methods import METHODS, OURS
from sls.adapters.model import Adapted, Tuned, calm_peft, in_order, linear, trunk
from store.adapters.checkpoint import CARD, CONFIG, HEAD, LABELS, WEIGHTS, Checkpoint, read_checkpoint
from store.adapters.methods.supported import supported_method
from store.errors import BackboneMismatchError, FormatError, OneTrunkError
from store.records.manifest import Card
from store.weights.backbones import Backbone


def write_folder(folder: Path, backbone: Backbone, tuned: Tuned, classes: tuple[str, ...]) -> None:
    """Write all but the card, and remove one that is there; equal tensors give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    stored = METHODS[tuned.method].stored(backbone, tuned)
    # PEFT keeps paths as a set, whose order changes from process to process
    config = {key: in_order(value) if isinstance(value, set) else value for key, value in stored.config.items()}
    config["inference_mode"] = True
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / WEIGHTS).write_bytes(_encode(stored.tensors))
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
    """Load blocks 1..depth through stock PEFT, or by ourselves what it does not know, in eval mode.

    Where no depth is given, it is the card's, or all blocks where there is no card. Raises `NotFoundError`,
    `FormatError`, `UnservedAdapterError` for a method or option that is not read, and `BackboneMismatchError`.
    """
    checkpoint, fingerprint = read_checkpoint(folder), backbone.record.id.fingerprint
    supported_method(checkpoint.settings)  # PEFT would read a pickle for some, or other files than the folder's own
    card = checkpoint.card
    if card is not None and card.backbone != fingerprint:
        raise BackboneMismatchError(
            f"{folder} was made on backbone {card.backbone[:12]}, not {fingerprint[:12]}: give the one it was made on"
        )
    if depth is None:
        depth = card.prune_index.depth if card else backbone.record.blocks
    try:
        if checkpoint.settings["peft_type"] in OURS:
            vit = _of_ours(checkpoint, backbone, depth)
        else:
            vit = _through_peft(folder, trunk(backbone, depth))
        head = load(checkpoint.head)
        return Adapted(vit.eval(), linear(head["weight"], head["bias"]))
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        if isinstance(error, OneTrunkError):
            raise
        line = str(error).splitlines()[0]
        raise FormatError(f"{folder} cannot be read ({line}): give a PEFT folder with {HEAD}") from None


def _of_ours(checkpoint: Checkpoint, backbone: Backbone, depth: int) -> VisionTransformer:
    settings = checkpoint.settings
    supported_method(settings).ranks(settings, checkpoint.adapter_infos, backbone.record.modules)
    return OURS[str(settings["peft_type"])](trunk(backbone, depth), settings, load(checkpoint.weights))


def _through_peft(folder: Path, vit: VisionTransformer) -> VisionTransformer:
    with calm_peft():
        peft = PeftModel.from_pretrained(vit, str(folder))
        wanted = get_peft_model_state_dict(peft)
    with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
        absent = sorted(wanted.keys() - set(file.keys()))
    if absent:  # PEFT would go on with fresh random numbers
        raise FormatError(f"{folder / WEIGHTS} has no tensor {absent[0]!r}, of {len(absent)}: save it with PEFT again")
    return cast(VisionTransformer, peft.base_model.model)


def _read_card(folder: Path) -> Card | None:
    path = folder / CARD
    return Card.from_json(path.read_bytes()) if path.is_file() else None


def _encode(tensors: Mapping[str, Tensor]) -> bytes:
    # one metadata key: with more, safetensors writes them in an order that changes
    data: bytes = save({key: value.contiguous() for key, value in tensors.items()}, metadata={"format": "pt"})
    return data
