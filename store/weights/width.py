"""A backbone of fewer heads and units: its weights by a width index, and timm's model with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from store.adapters.widths import FC1, FC2, PROJ, QKV
from store.errors import BackboneMismatchError, UnservedBackboneError
from store.records.width import WidthIndex, kept_places
from store.weights.forms import Kept
from store.weights.supported import TimmModel

Tensors = Mapping[str, Tensor]
NO_STAGES = "a Swin's stages differ in heads and units, which no width index says: cut its depth"


def kept_of(width: WidthIndex | None) -> dict[str, Kept]:
    """Return what attention and the MLP keep, by `blocks.N.attn` and `blocks.N.mlp`; what is whole is left out."""
    kept: dict[str, Kept] = {}
    for block, masks in enumerate(() if width is None else width.masks):
        assert width is not None
        for name, mask, total in (("attn", masks.heads, width.heads), ("mlp", masks.units, width.units)):
            if mask.bit_count() < total:
                kept[f"blocks.{block}.{name}"] = Kept(mask, total)
    return kept


class NarrowedTensors(Mapping[str, Tensor]):
    """The tensors of a backbone, those of linear maps cut to what a width index keeps, when they are asked for."""

    def __init__(self, tensors: Tensors, width: WidthIndex) -> None:
        self._tensors = tensors
        self._kept = kept_of(width)

    def __getitem__(self, name: str) -> Tensor:
        words = name.split(".")
        kept = self._kept.get(".".join(words[:3]))
        tensor = self._tensors[name]
        return tensor if kept is None else narrowed(tensor, ".".join(words[2:4]), words[-1], kept)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def narrowed(tensor: Tensor, kind: str, part: str, kept: Kept) -> Tensor:
    """Return the kept rows or columns of a linear map's weight or bias; a view where the first ones are kept.

    qkv keeps rows of q, of k and of v, so its first heads are no view.
    """
    if kind == QKV:
        size = len(tensor) // (3 * kept.total)
        parts = torch.unflatten(tensor, 0, (3, kept.total, size))
        chosen = parts[:, : kept.count] if kept.is_prefix else parts[:, places(kept)]
        return torch.flatten(chosen, 0, 2)
    if kind == FC1:
        return tensor[: kept.count] if kept.is_prefix else tensor[places(kept)]
    if part == "weight" and kind in (PROJ, FC2):
        width = tensor.shape[1] // kept.total
        if kept.is_prefix:
            return tensor[:, : kept.count * width]
        return torch.flatten(torch.unflatten(tensor, 1, (kept.total, width))[:, places(kept)], 1)
    if kind not in (PROJ, FC2):
        raise UnservedBackboneError(f"the backbone has {kind} within a block, which has no width: keep its full width")
    return tensor


def places(kept: Kept) -> Tensor:
    return torch.tensor(kept_places(kept.mask))


def narrow_model(model: TimmModel, width: WidthIndex) -> TimmModel:
    """Give the blocks linear maps of the kept shapes, without weights; the model may be on the meta device."""
    check_heads(model, width)
    assert not isinstance(model, SwinTransformer)
    for block, masks in zip(model.blocks, width.masks, strict=False):
        _narrow_block(block, masks.heads.bit_count(), masks.units.bit_count())
    return model


def check_heads(model: TimmModel, width: WidthIndex) -> None:
    """Raise `BackboneMismatchError` unless the index is of this model's heads and units."""
    if isinstance(model, SwinTransformer):
        raise UnservedBackboneError(NO_STAGES)
    block = model.blocks[0]
    heads, units = block.attn.num_heads, block.mlp.fc1.out_features
    if (width.heads, width.units) != (heads, units) or width.blocks > len(model.blocks):
        raise BackboneMismatchError(
            f"the width index is of {width.blocks} blocks of {width.heads} heads and {width.units} units, the backbone "
            f"has {len(model.blocks)} of {heads} and {units}: use it with the backbone it was made for"
        )
    _check_inner_norms(block)


def check_kept(kept: Mapping[str, Kept], model: TimmModel) -> None:
    """Raise `BackboneMismatchError` where a task keeps heads or units of a block that this model does not have."""
    if isinstance(model, SwinTransformer):
        if kept:
            raise UnservedBackboneError(NO_STAGES)
        return
    for path, part in kept.items():
        _, block, name = path.split(".")
        index = int(block)
        owner = model.blocks[index] if index < len(model.blocks) else None
        total = 0 if owner is None else owner.attn.num_heads if name == "attn" else owner.mlp.fc1.out_features
        if total != part.total:
            raise BackboneMismatchError(
                f"the width index says that {path} has {part.total} heads or units, the backbone has {total}: "
                "use it with the backbone it was made for"
            )
        if owner is not None:
            _check_inner_norms(owner)


def widths_of(model: TimmModel) -> tuple[int, int] | None:
    """Return how many heads and units a block has; None where the blocks have to keep their full width."""
    if isinstance(model, SwinTransformer):
        return None
    block = model.blocks[0]
    kinds = {name for name, layer in block.named_modules() if isinstance(layer, nn.Linear)}
    inner = (getattr(getattr(block, name), "norm", None) for name in ("attn", "mlp"))
    if kinds != {QKV, PROJ, FC1, FC2} or not all(isinstance(norm, nn.Identity) for norm in inner):
        return None
    return block.attn.num_heads, block.mlp.fc1.out_features


def _check_inner_norms(block: Block) -> None:
    for inner in (block.attn.norm, block.mlp.norm):
        if not isinstance(inner, nn.Identity):
            raise UnservedBackboneError(
                "the backbone has a norm over all heads or units, which depends on those that go: keep its full width"
            )


def _narrow_block(block: Block, heads: int, units: int) -> None:
    attn, mlp = block.attn, block.mlp
    attn.num_heads, attn.attn_dim = heads, heads * attn.head_dim
    attn.qkv = _like(attn.qkv, out=3 * attn.attn_dim)
    attn.proj = _like(attn.proj, fan_in=attn.attn_dim)
    mlp.fc1, mlp.fc2 = _like(mlp.fc1, out=units), _like(mlp.fc2, fan_in=units)


def _like(layer: nn.Linear, *, out: int | None = None, fan_in: int | None = None) -> nn.Linear:
    return nn.Linear(
        fan_in or layer.in_features,
        out or layer.out_features,
        bias=layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
