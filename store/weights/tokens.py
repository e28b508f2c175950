"""Patches that a block leaves out: in timm's model as a hook before the block, in a task by its index."""

from __future__ import annotations

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from store.adapters.widths import NO_CONVOLUTION, check_grid
from store.errors import BackboneMismatchError, UnservedAdapterError, UnservedBackboneError
from store.records.tokens import Step, TokenIndex
from store.weights.forms import Forms
from store.weights.supported import TimmModel

NAME = "token_cut"


class TokenCut:
    """A hook before a block: of the tokens (n, prefix + patches, dim), it takes those that the block keeps."""

    def __init__(self, step: Step, prefix: int) -> None:
        self.places = places_of(step, prefix)

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return inputs[0].index_select(1, self.places.to(inputs[0].device)), *inputs[1:]


def places_of(step: Step, prefix: int) -> Tensor:
    """Return which of the tokens before a block stay; those before the patches always do."""
    return torch.tensor([*range(prefix), *(prefix + place for place in step.places)])


def insert_tokens(model: TimmModel, tokens: TokenIndex) -> TimmModel:
    """Have the blocks leave out patches; the model may be on the meta device."""
    vit = check_model(tokens, model)
    for block, step in tokens.steps.items():
        setattr(vit.blocks[block], NAME, TokenCut(step, vit.num_prefix_tokens))
        cut_before(vit.blocks[block], vit.blocks[block])
    return model


def cut_before(outer: nn.Module, block: nn.Module) -> None:
    """Have `outer`, which stands for a block, leave out what the block does."""
    cut = getattr(block, NAME, None)
    if isinstance(cut, TokenCut):
        outer.register_forward_pre_hook(cut)


def check_model(tokens: TokenIndex, model: TimmModel) -> TimmModel:
    """Return the model; raise a `RefusedError` unless the index is of its blocks and patches."""
    if isinstance(model, SwinTransformer):
        raise UnservedBackboneError("a Swin attends within windows of the whole grid of patches: cut its depth")
    check_grid(tokens, model.patch_embed.grid_size)
    if tokens.blocks > len(model.blocks):
        raise BackboneMismatchError(
            f"the token index is of {tokens.blocks} blocks, the backbone has {len(model.blocks)}: "
            "use it with the backbone it was made for"
        )
    return model


def check_forms(forms: Forms, model: TimmModel) -> None:
    """Raise a `RefusedError` where a task's patches are not this model's, or it needs those that it leaves out."""
    if forms.tokens is None:
        return
    check_model(forms.tokens, model)
    if any(form.conv is not None for form in forms.bottlenecks.values()):
        raise UnservedAdapterError(NO_CONVOLUTION)
