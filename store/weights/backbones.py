"""Frozen backbones: found by name, described, fingerprinted, and built as fresh timm models."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import cast

import safetensors
import timm
import torch
from safetensors.torch import load, load_file, save
from timm.data import resolve_model_data_config
from timm.models import load_model_config_from_hf, parse_model_name
from timm.models._hub import load_model_config_from_path
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from store.adapters.backbone_fingerprint import Leaf, check_fingerprint, check_leaves, fingerprint_of
from store.adapters.widths import check_width, narrowed_shapes
from store.errors import (
    BackboneNotFoundError,
    FormatError,
    InvalidSettingError,
    UnservedBackboneError,
)
from store.records.backbone import DEFAULT_BACKBONE, BackboneId, BackboneRecord, Preprocessing
from store.records.blob import Blob
from store.records.manifest import decode
from store.records.width import WidthIndex
from store.registry.store import Store
from store.weights.supported import check_supported
from store.weights.tensor_views import tensors_in
from store.weights.width import NarrowedTensors, narrow_model

PACKAGED = {DEFAULT_BACKBONE: "vit_tiny_64"}
SAFETENSORS = "model.safetensors"
# timm reads a pickle where this file is not there, and fetches one where it knows an URL
ONLY_SAFETENSORS = {"hf_hub_filename": SAFETENSORS, "url": ""}
LOCAL = "local-dir"
CONFIG_READERS = {"hf-hub": load_model_config_from_hf, LOCAL: load_model_config_from_path}
CLASSIFIER_KEYS = ("head.", "head_dist.")


@dataclass(frozen=True)
class Backbone:
    """A record and the backbone's tensors as stored: no classifier, any float dtype."""

    record: BackboneRecord
    tensors: Mapping[str, Tensor]
    width: WidthIndex | None = None
    """What its blocks keep of their heads and units; record and tensors are of these."""

    def skeleton(self) -> VisionTransformer:
        """Build the model without its weights: its modules and their shapes, on torch's meta device."""
        with torch.device("meta"):
            model = _create(self.record.id.architecture, {**self.record.id.arguments, "weight_init": "skip"})
        return model if self.width is None else narrow_model(model, self.width)

    def narrow(self, width: WidthIndex | None) -> Backbone:
        """Return the backbone with the heads and units of the index alone; with None, itself.

        Raises `BackboneMismatchError` where the index is of another backbone. It has the fingerprint of the whole one.
        """
        if width is None:
            return self
        check_width(width, self.record, width.blocks)
        record = dataclasses.replace(self.record, modules=narrowed_shapes(self.record, width))
        return Backbone(record, NarrowedTensors(self.tensors, width), width)

    def build(
        self, *, classes: int = 0, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> VisionTransformer:
        """Build a model of its own memory, in eval mode, nothing requiring grad; `classes` adds a fresh linear head."""
        model = self.skeleton()
        model.load_state_dict({k: v.to(device, dtype, copy=True) for k, v in self.tensors.items()}, assign=True)
        if classes:
            model.reset_classifier(classes)
            model.to(device, dtype)  # a distilled model has two heads
        return model.eval().requires_grad_(False)


def load_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    arguments: Mapping[str, object] | None = None,
    label: str | None = None,
) -> Backbone:
    """Load a packaged backbone, a timm name (`hf-hub:` too), or a timm architecture with a local safetensors file.

    Raises `BackboneNotFoundError`, `UnservedBackboneError`, or `FormatError` for a file that does not fit.
    """
    if name in PACKAGED:
        return _load_packaged(name)
    if weights is None:
        return _load_pretrained(name, arguments or {}, label or name)
    weights = Path(weights)
    if not weights.is_file():
        raise BackboneNotFoundError(f"weights file {str(weights)!r} does not exist: give a safetensors file")
    model = _create(name, arguments or {})
    try:
        tensors = load_file(weights)
    except safetensors.SafetensorError as error:
        raise FormatError(f"{str(weights)!r} is not a whole safetensors file ({error}): fetch it again") from None
    return _describe(
        label or name, model, _without_classifier(tensors, model, str(weights)), arguments or {}, source=weights.name
    )


def read_backbone(record: BackboneRecord, data: bytes) -> Backbone:
    """Read a backbone from its blob; raise `BackboneMismatchError` unless the fingerprint is the record's."""
    check_fingerprint(record, data)
    return Backbone(record, load(data))


def open_backbone(store: Store, record: BackboneRecord) -> Backbone:
    """Open a backbone of the store, from its blob or, where the weights stayed at their source, from there.

    Where the blob is a file it is mapped, not read: the tensors take memory that the system may take back, and that
    all processes on the machine share. Its digest and fingerprint are checked here, once.
    """
    if record.weights is not None:
        with store.viewing(record.weights) as (data,):
            pass
        store.fingerprints.check(record, data, sha256=record.weights.sha256)
        return Backbone(record, tensors_in(data, f"weights of backbone {record.name}"))
    original = load_backbone(record.source, arguments=record.id.arguments, label=record.name)
    return check_backbone(Backbone(record, original.tensors))


def check_backbone(backbone: Backbone) -> Backbone:
    """Return the backbone, or raise `BackboneMismatchError` where its tensors are not what its record says."""
    check_leaves(backbone.record, _leaves(backbone.tensors))
    return backbone


def encode(backbone: Backbone) -> bytes:
    """Encode the tensors as safetensors without metadata, so that equal tensors give equal bytes."""
    return save(dict(backbone.tensors))


def fingerprint(
    architecture: str, arguments: Mapping[str, object], preprocessing: Preprocessing, tensors: Mapping[str, Tensor]
) -> str:
    """Compute `fingerprint_of` over tensors in memory."""
    return fingerprint_of(architecture, arguments, preprocessing, _leaves(tensors))


def describe_backbone(backbone: Backbone, label: str, tensors: Mapping[str, Tensor], *, source: str) -> Backbone:
    """Describe other tensors of a backbone's architecture, arguments and preprocessing, under another name."""
    identity = backbone.record.id
    return _describe(
        label,
        backbone.skeleton(),
        tensors,
        identity.arguments,
        source=source,
        preprocessing=identity.preprocessing,
    )


def _load_packaged(name: str) -> Backbone:
    folder = resources.files("store") / "assets"
    config = json.loads((folder / f"{PACKAGED[name]}.json").read_bytes())
    preprocessing = decode(Preprocessing, json.dumps(config["preprocessing"]).encode(), f"{name} preprocessing")
    tensors = load((folder / f"{PACKAGED[name]}.safetensors").read_bytes())
    with torch.device("meta"):
        model = _create(config["architecture"], config["arguments"])
    weights = _without_classifier(tensors, model, name)
    backbone = _describe(name, model, weights, config["arguments"], source="package", preprocessing=preprocessing)
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
            _create(architecture, arguments)  # what is not served is refused before its weights are fetched
        overlay = {} if source == LOCAL else ONLY_SAFETENSORS
        model = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **arguments)
    except UnservedBackboneError:
        raise
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        line = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BackboneNotFoundError(
            f"backbone {name!r} cannot be loaded ({line}): check the timm name and the network, or give `weights=`"
        ) from None
    return _describe(label, model, model.state_dict(), arguments, source=name)


def _check_local(source: str | None, folder: str) -> None:
    if source == LOCAL and not Path(folder, SAFETENSORS).is_file():
        raise BackboneNotFoundError(
            f"{folder} has no {SAFETENSORS}, and a pickle is not read: save the model as safetensors"
        )


def _create(architecture: str, arguments: Mapping[str, object]) -> VisionTransformer:
    try:
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except RuntimeError as error:
        raise BackboneNotFoundError(
            f"{architecture!r} is not a timm architecture ({error}): see timm.list_models()"
        ) from None
    except (TypeError, ValueError, AssertionError, ArithmeticError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidSettingError(f"arguments {dict(arguments)} do not fit {architecture!r}: {line}") from None
    return check_supported(model, architecture)


def _without_classifier(tensors: Mapping[str, Tensor], model: VisionTransformer, source: str) -> dict[str, Tensor]:
    """Drop the classifier and check names and shapes against the model."""
    expected = {k: v.shape for k, v in model.state_dict().items()}
    kept = {k: v for k, v in tensors.items() if not k.startswith(CLASSIFIER_KEYS)}
    wrong = sorted(kept.keys() ^ expected.keys()) or sorted(k for k in expected if kept[k].shape != expected[k])
    if wrong:
        raise FormatError(
            f"{source}: tensor {wrong[0]!r} is missing, unknown or of another shape than the architecture's "
            f"({len(wrong)} such): give the matching architecture and arguments"
        )
    return kept


def _describe(
    name: str,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    arguments: Mapping[str, object],
    *,
    source: str,
    preprocessing: Preprocessing | None = None,
) -> Backbone:
    vit = check_supported(model, name)
    preprocessing = preprocessing or _preprocessing(vit)
    architecture = vit.pretrained_cfg["architecture"]
    identity = BackboneId(
        architecture, dict(arguments), preprocessing, fingerprint(architecture, arguments, preprocessing, tensors)
    )
    record = BackboneRecord(
        name=name,
        id=identity,
        blocks=len(vit.blocks),
        dim=vit.embed_dim,
        parameters=sum(t.numel() for t in tensors.values()),
        block_parameters=sum(p.numel() for p in vit.blocks[0].parameters()),
        nbytes=sum(t.nbytes for t in tensors.values()),
        source=source,
        weights=Blob.of(save(dict(tensors))),
        modules={
            path: (module.out_features, module.in_features)
            for path, module in vit.named_modules()
            if path.startswith("blocks.") and isinstance(module, nn.Linear)
        },
    )
    return Backbone(record, tensors)


def _preprocessing(model: VisionTransformer) -> Preprocessing:
    config = resolve_model_data_config(model)
    height, width = model.patch_embed.img_size  # an img_size argument changes the model, not timm's data config
    mean, std = (cast(tuple[float, float, float], tuple(map(float, config[key]))) for key in ("mean", "std"))
    return Preprocessing(
        height, width, config["interpolation"], mean, std, float(config["crop_pct"]), config["crop_mode"]
    )


def _leaves(tensors: Mapping[str, Tensor]) -> list[Leaf]:
    return [Leaf(name, str(t.dtype), tuple(t.shape), _sha256(t)) for name, t in tensors.items()]


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
