"""A timm model as a backbone: created from its arguments, described, and fingerprinted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import timm
import torch
from safetensors.torch import save
from timm.data import resolve_model_data_config
from timm.models.swin_transformer import SwinTransformer, get_relative_position_index
from torch import Tensor, nn

from store.adapters.backbone_fingerprint import IN_BLOCKS, Leaf, fingerprint_of
from store.adapters.widths import check_tokens, check_width, narrowed_shapes
from store.errors import BackboneNotFoundError, FormatError, InvalidSettingError
from store.records.backbone import PATCH_MEAN, BackboneId, BackboneRecord, Preprocessing
from store.records.blob import Blob
from store.records.geometry import Geometry
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex
from store.weights.supported import TimmModel, check_supported
from store.weights.tokens import insert_tokens
from store.weights.width import NarrowedTensors, narrow_model

CLASSIFIER_KEYS = ("head.", "head_dist.")
NORM_EPS = "norm_eps"
"""Not timm's own argument: what its layer norms add to the variance, as JSON cannot name a layer."""


@dataclass(frozen=True)
class Backbone:
    """A record and the backbone's tensors as stored: no classifier, any float dtype."""

    record: BackboneRecord
    tensors: Mapping[str, Tensor]
    width: WidthIndex | None = None
    """What its blocks keep of their heads and units; record and tensors are of these."""
    kept_patches: TokenIndex | None = None
    """Which patches its blocks run on, where not on all."""

    def skeleton(self) -> TimmModel:
        """Build the model without its weights: its modules and their shapes, on torch's meta device."""
        with torch.device("meta"):
            model = create_model(self.record.id.architecture, {**self.record.id.arguments, "weight_init": "skip"})
        model = model if self.width is None else narrow_model(model, self.width)
        return model if self.kept_patches is None else insert_tokens(model, self.kept_patches)

    def narrow(self, width: WidthIndex | None, tokens: TokenIndex | None = None) -> Backbone:
        """Return the backbone with the heads, units and patches of the indexes alone; with None, with all of them.

        Raises `BackboneMismatchError` where an index is of another backbone. It has the fingerprint of the whole one.
        """
        if tokens is not None:
            check_tokens(tokens, self.record, tokens.blocks)
        if width is None:
            return self if tokens is None else replace(self, kept_patches=tokens)
        check_width(width, self.record, width.blocks)
        record = replace(self.record, modules=narrowed_shapes(self.record, width))
        return Backbone(record, NarrowedTensors(self.tensors, width), width, tokens)

    def build(
        self, *, classes: int = 0, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> TimmModel:
        """Build a model of its own memory, in eval mode, nothing requiring grad; `classes` adds a fresh linear head."""
        model = self.skeleton()
        model.load_state_dict({k: v.to(device, dtype, copy=True) for k, v in self.tensors.items()}, assign=True)
        if isinstance(model, SwinTransformer):
            _fill_buffers(model)
        if classes:
            model.reset_classifier(classes)
            model.to(device, dtype)  # a distilled model has two heads
        return model.eval().requires_grad_(False)


def _fill_buffers(swin: SwinTransformer) -> None:
    """Compute what timm keeps out of the state dict: which bias a pair of places has, and the masks of shifted windows.

    A model that was built on torch's meta device has neither.
    """
    for stage in swin.layers:
        for block in stage.blocks:
            attn = block.attn
            places = get_relative_position_index(*attn.window_size, device=block.norm1.weight.device)
            attn.register_buffer("relative_position_index", places, persistent=False)
            block.init_non_persistent_buffers()


def create_model(architecture: str, arguments: Mapping[str, object]) -> TimmModel:
    """Create the architecture with random weights; raise where timm cannot, or where the engine does not serve it."""
    options = {key: value for key, value in arguments.items() if key not in (NORM_EPS, PATCH_MEAN)}
    try:
        if NORM_EPS in arguments:
            options["norm_layer"] = partial(nn.LayerNorm, eps=float(cast(float, arguments[NORM_EPS])))
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    except RuntimeError as error:
        raise BackboneNotFoundError(
            f"{architecture!r} is not a timm architecture ({error}): see timm.list_models()"
        ) from None
    except (TypeError, ValueError, AssertionError, ArithmeticError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidSettingError(f"arguments {dict(arguments)} do not fit {architecture!r}: {line}") from None
    return check_supported(model, architecture)


def without_classifier(tensors: Mapping[str, Tensor], model: TimmModel, source: str) -> dict[str, Tensor]:
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


def describe(
    name: str,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    arguments: Mapping[str, object],
    *,
    source: str,
    preprocessing: Preprocessing | None = None,
) -> Backbone:
    """Describe the model with these tensors; without preprocessing given, timm's own of this model."""
    vit = check_supported(model, name)
    preprocessing = preprocessing or _preprocessing(vit)
    architecture = vit.pretrained_cfg["architecture"]
    modules = {
        path: (module.out_features, module.in_features)
        for path, module in vit.named_modules()
        if path.startswith(IN_BLOCKS) and isinstance(module, nn.Linear)
    }
    geometry = Geometry.of(modules)
    identity = BackboneId(
        architecture, dict(arguments), preprocessing, fingerprint(architecture, arguments, preprocessing, tensors)
    )
    record = BackboneRecord(
        name=name,
        id=identity,
        blocks=geometry.blocks,
        dim=vit.num_features,
        parameters=sum(t.numel() for t in tensors.values()),
        block_parameters=sum(p.numel() for n, p in vit.named_parameters() if n.startswith(IN_BLOCKS))
        // geometry.blocks,
        nbytes=sum(t.nbytes for t in tensors.values()),
        source=source,
        weights=Blob.of(save(dict(tensors))),
        modules=modules,
    )
    return Backbone(record, tensors)


def _preprocessing(model: TimmModel) -> Preprocessing:
    config = resolve_model_data_config(model)
    height, width = model.patch_embed.img_size  # an img_size argument changes the model, not timm's data config
    mean, std = (cast(tuple[float, float, float], tuple(map(float, config[key]))) for key in ("mean", "std"))
    return Preprocessing(
        height, width, config["interpolation"], mean, std, float(config["crop_pct"]), config["crop_mode"]
    )


def fingerprint(
    architecture: str, arguments: Mapping[str, object], preprocessing: Preprocessing, tensors: Mapping[str, Tensor]
) -> str:
    """Compute `fingerprint_of` over tensors in memory."""
    return fingerprint_of(architecture, arguments, preprocessing, leaves_in(tensors))


def leaves_in(tensors: Mapping[str, Tensor]) -> list[Leaf]:
    return [Leaf(name, str(t.dtype), tuple(t.shape), _sha256(t)) for name, t in tensors.items()]


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
