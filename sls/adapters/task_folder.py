"""A task's folder: the adapter's config and weights, by PEFT or in this project's format; head, labels and card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

import safetensors
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load, save
from torch import Tensor

from sls.adapters.methods import CUSTOM_LOADERS, METHODS
from sls.adapters.model import AdaptedModel, TunedModel, build_vit, in_order, linear, suppress_peft_warnings
from store.adapters.checkpoint import CARD, CONFIG, HEAD, LABELS, WEIGHTS, Checkpoint, read_checkpoint
from store.adapters.methods.supported import supported_method
from store.errors import BackboneMismatchError, DataError, FormatError, OnetrunkError
from store.records.manifest import Card
from store.weights.backbones import Backbone
from store.weights.supported import TimmModel

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)
"""What adapter and head may be stored in."""


def write_folder(
    folder: Path,
    backbone: Backbone,
    tuned: TunedModel,
    classes: tuple[str, ...],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write all files but the card, and remove an old card. Equal tensors give equal bytes.

    Adapter and head are rounded to `dtype`. Raises `DataError` for a number that it does not hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    stored = METHODS[tuned.method].stored(backbone, tuned)
    # PEFT keeps paths in a set, whose order differs between processes
    config = {key: in_order(value) if isinstance(value, set) else value for key, value in stored.config.items()}
    config["inference_mode"] = True
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / WEIGHTS).write_bytes(_encode(stored.tensors, dtype))
    (folder / HEAD).write_bytes(_encode({"weight": tuned.weight, "bias": tuned.bias}, dtype))
    (folder / LABELS).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


def write_card(folder: Path, card: Card) -> None:
    (folder / CARD).write_bytes(card.to_json())


def backbone_of(folder: Path) -> str:
    """Return the fingerprint of the backbone that the folder's card names; raise `FormatError` without a card."""
    card = _read_card(folder)
    if card is None:
        raise FormatError(f"{folder} has no {CARD}, so its backbone is not known: name it with `backbone=`")
    return card.backbone


def read_folder(folder: Path, backbone: Backbone, *, depth: int | None = None) -> AdaptedModel:
    """Load blocks 1..depth in eval mode, through stock PEFT or, for custom methods, by `CUSTOM_LOADERS`.

    The default depth is the card's, or all blocks without a card. Raises `NotFoundError`, `FormatError`,
    `UnservedAdapterError` for a method or option that is not supported, and `BackboneMismatchError`.
    """
    checkpoint, fingerprint = read_checkpoint(folder), backbone.record.id.fingerprint
    supported_method(checkpoint.settings)  # some options make PEFT read a pickle, or files outside the folder
    card = checkpoint.card
    if card is not None and card.backbone != fingerprint:
        raise BackboneMismatchError(
            f"{folder} was made on backbone {card.backbone[:12]}, not {fingerprint[:12]}: give that one as `backbone=`"
        )
    if depth is None:
        depth = card.prune_index.depth if card else backbone.record.blocks
    if card is not None:
        backbone = backbone.narrow(card.prune_index.width, card.prune_index.tokens)
    try:
        if checkpoint.settings["peft_type"] in CUSTOM_LOADERS:
            vit = _load_custom(checkpoint, backbone, depth)
        else:
            vit = _load_with_peft(folder, build_vit(backbone, depth))
        head = load(checkpoint.head)
        return AdaptedModel(vit.eval(), linear(head["weight"], head["bias"]))
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        if isinstance(error, OnetrunkError):
            raise
        line = str(error).splitlines()[0]
        raise FormatError(f"{folder} is not a readable task folder ({line}): give a PEFT folder with {HEAD}") from None


def _load_custom(checkpoint: Checkpoint, backbone: Backbone, depth: int) -> TimmModel:
    config = checkpoint.settings
    supported_method(config).ranks(config, checkpoint.adapter_infos, backbone.record.modules)
    return CUSTOM_LOADERS[str(config["peft_type"])](build_vit(backbone, depth), config, load(checkpoint.weights))


def _load_with_peft(folder: Path, vit: TimmModel) -> TimmModel:
    with suppress_peft_warnings():
        peft = PeftModel.from_pretrained(vit, str(folder))
        expected = get_peft_model_state_dict(peft)
    with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
        missing = sorted(expected.keys() - set(file.keys()))
    if missing:  # PEFT would use random values instead
        count = len(missing)
        raise FormatError(f"{folder / WEIGHTS} has no tensor {missing[0]!r} ({count} missing): save it with PEFT again")
    return cast(TimmModel, peft.base_model.model)


def _read_card(folder: Path) -> Card | None:
    path = folder / CARD
    return Card.from_json(path.read_bytes()) if path.is_file() else None


def _encode(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> bytes:
    rounded = {key: _round(key, value, dtype).contiguous() for key, value in tensors.items()}
    # one metadata key: safetensors writes several in an order that changes
    data: bytes = save(rounded, metadata={"format": "pt"})
    return data


def _round(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.to(dtype)
    if not rounded.isfinite().all():
        kind, largest = str(dtype).removeprefix("torch."), tensor.abs().max().item()
        raise DataError(
            f"tensor {name!r} reaches {largest:g}, which {kind} does not hold: tune with a lower learning rate, or "
            "keep it in float32 with `save_dtype=`"
        )
    return rounded
