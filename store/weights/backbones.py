"""Frozen backbones: found by name, described, fingerprinted, and built as fresh timm models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import safetensors
import timm
import torch
from safetensors.torch import load, load_file, save
from timm.models import load_model_config_from_hf, parse_model_name
from timm.models._hub import load_model_config_from_path

from store.adapters.backbone_fingerprint import check_fingerprint, check_leaves
from store.errors import BackboneNotFoundError, FormatError, InvalidSettingError, UnservedBackboneError
from store.records.backbone import DEFAULT_BACKBONE, BackboneRecord, Preprocessing, source_of
from store.records.manifest import decode
from store.registry.read_only_store import ReadOnlyStore
from store.weights.base_models.base_model import base_folder, load_base
from store.weights.description import (
    Backbone,
    create_model,
    describe,
    fingerprint,
    leaves_in,
    without_classifier,
)
from store.weights.tensor_views import tensors_in

__all__ = [
    "Backbone", "check_backbone", "encode", "fingerprint", "load_backbone", "open_backbone", "read_backbone",
]  # fmt: skip

PACKAGED = {DEFAULT_BACKBONE: "vit_tiny_64.v2", "onetrunk/vit_tiny_64": "vit_tiny_64"}
"""By name: the files in store/assets. A name's weights never change, so better ones get a new name."""
SAFETENSORS = "model.safetensors"
# timm reads a pickle where this file is not there, and fetches one where it knows an URL
ONLY_SAFETENSORS = {"hf_hub_filename": SAFETENSORS, "url": ""}
LOCAL = "local-dir"
COMPUTED = (".attn.relative_position_index", ".attn_mask")
CONFIG_READERS = {"hf-hub": load_model_config_from_hf, LOCAL: load_model_config_from_path}


def load_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    arguments: Mapping[str, object] | None = None,
    label: str | None = None,
) -> Backbone:
    """Load a packaged backbone, a timm name (`hf-hub:` too), or a timm architecture with a local safetensors file.

    A folder is named by its path or as `local-dir:PATH`. Where a folder or a repository of the Hub holds a model of
    transformers (ViT, DeiT, DINOv2), its weights are converted to timm's layout. Raises `BackboneNotFoundError`,
    `UnservedBackboneError`, or `FormatError` for a file that does not fit.
    """
    if name in PACKAGED:
        return _load_packaged(name)
    if weights is None and (folder := base_folder(name)) is not None:
        if arguments:
            raise InvalidSettingError(f"{name!r} is a model of transformers, whose config says all: give no arguments")
        return load_base(folder, source=name, label=label).backbone
    if weights is None:
        name = f"{LOCAL}:{name}" if Path(name).is_dir() else name
        return _load_pretrained(name, arguments or {}, label or name)
    weights = Path(weights)
    if not weights.is_file():
        raise BackboneNotFoundError(f"weights file {str(weights)!r} does not exist: give a safetensors file")
    model = create_model(name, arguments or {})
    try:
        tensors = load_file(weights)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{str(weights)!r} is not a whole safetensors file ({error}): fetch it again") from None
    return describe(
        label or name,
        model,
        without_classifier(_parameters(tensors), model, str(weights)),
        arguments or {},
        source=weights.name,
    )


def _parameters(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out what older files of a Swin hold beside its parameters, and timm computes."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COMPUTED)}


def read_backbone(record: BackboneRecord, data: bytes) -> Backbone:
    """Read a backbone from its blob; raise `BackboneMismatchError` unless the fingerprint is the record's."""
    check_fingerprint(record, data)
    return Backbone(record, load(data))


def open_backbone(store: ReadOnlyStore, record: BackboneRecord) -> Backbone:
    """Open a backbone of the store, from its blob or, where the weights stayed at their source, from there.

    Where the blob is a file it is mapped, not read: the tensors take memory that the system may take back, and that
    all processes on the machine share. Its digest and fingerprint are checked here, once.
    """
    if record.weights is not None:
        with store.viewing(record.weights) as (data,):
            pass
        store.fingerprints.check(record, data, sha256=record.weights.sha256)
        return Backbone(record, tensors_in(data, f"weights of backbone {record.name}"))
    source = source_of(record)
    original = load_backbone(source.name, arguments=source.arguments, label=record.name)
    return check_backbone(Backbone(record, original.tensors))


def check_backbone(backbone: Backbone) -> Backbone:
    """Return the backbone, or raise `BackboneMismatchError` where its tensors are not what its record says."""
    check_leaves(backbone.record, leaves_in(backbone.tensors))
    return backbone


def encode(backbone: Backbone) -> bytes:
    """Encode the tensors as safetensors without metadata, so that equal tensors give equal bytes."""
    return save(dict(backbone.tensors))


def _load_packaged(name: str) -> Backbone:
    folder = resources.files("store") / "assets"
    config = json.loads((folder / f"{PACKAGED[name]}.json").read_bytes())
    preprocessing = decode(Preprocessing, json.dumps(config["preprocessing"]).encode(), f"{name} preprocessing")
    tensors = load((folder / f"{PACKAGED[name]}.safetensors").read_bytes())
    with torch.device("meta"):
        model = create_model(config["architecture"], config["arguments"])
    weights = without_classifier(tensors, model, name)
    backbone = describe(name, model, weights, config["arguments"], source="package", preprocessing=preprocessing)
    expected = dataclasses.replace(backbone.record.id, fingerprint=config["fingerprint"])
    return check_backbone(Backbone(dataclasses.replace(backbone.record, id=expected), backbone.tensors))


def _load_pretrained(name: str, arguments: Mapping[str, object], label: str) -> Backbone:
    architecture = name
    try:
        source, model_id = parse_model_name(name)
        if source is not None:
            # Its own arguments are part of what is built, so of what is fingerprinted.
            _, architecture, model_args = CONFIG_READERS[source](model_id)
            arguments = {**(model_args or {}), **arguments}
        _check_local(source, model_id)
        with torch.device("meta"):
            create_model(architecture, arguments)  # what is not served is refused before its weights are fetched
        overlay = {} if source == LOCAL else ONLY_SAFETENSORS
        model = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **arguments)
    except UnservedBackboneError:
        raise
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BackboneNotFoundError(
            f"backbone {name!r} cannot be loaded ({line}): check the timm name and the network, or give `weights=`"
        ) from None
    return describe(label, model, model.state_dict(), arguments, source=name)


def _check_local(source: str | None, folder: str) -> None:
    if source == LOCAL and not Path(folder, SAFETENSORS).is_file():
        raise BackboneNotFoundError(
            f"{folder} has no {SAFETENSORS}, and a pickle is not read: save the model as safetensors"
        )
