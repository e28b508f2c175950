"""The slow twin of a token index: stock timm, from whose tokens patches are taken out one by one before each block."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from store.records.tokens import TokenIndex
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights


class TakenOut(nn.Module):
    """A block before which the patches of `before` that are not in `after` are taken out."""

    def __init__(self, block: nn.Module, before: list[int], after: set[int]) -> None:
        super().__init__()
        self.block, self.before, self.after = block, before, after

    def forward(self, x: Tensor) -> Tensor:
        prefix = x.shape[1] - len(self.before)
        first = [x[:, token] for token in range(prefix)]
        stay = [x[:, prefix + place] for place, patch in enumerate(self.before) if patch in self.after]
        return self.block(torch.stack(first + stay, dim=1))


def take_out(vit: VisionTransformer, tokens: TokenIndex | None) -> VisionTransformer:
    if tokens is None:
        return vit
    before = list(range(tokens.patches))
    for index in range(tokens.blocks):
        after = [patch for patch in before if tokens.levels[patch] > index]
        vit.blocks[index] = TakenOut(vit.blocks[index], before, set(after))
        before = after
    return vit


def random_masks(seed: int, blocks: int, patches: int) -> list[int]:
    """Draw what each block keeps of what the one before it keeps: everything, one patch, or any."""
    draw, there, masks = random.Random(seed), list(range(patches)), []
    for _ in range(blocks):
        kind = draw.choice(("all", "all", "any", "any", "one"))
        count = {"all": len(there), "any": draw.randint(1, len(there)), "one": 1}[kind]
        there = sorted(draw.sample(there, count))
        masks.append(sum(1 << patch for patch in there))
    return masks


def random_tokens(seed: int, blocks: int, grid: tuple[int, int]) -> TokenIndex:
    rows, columns = grid
    return TokenIndex.of(random_masks(seed, blocks, rows * columns), rows=rows, columns=columns)


def grid_of(backbone: Backbone) -> tuple[int, int]:
    return backbone.skeleton().patch_embed.grid_size


def with_tokens(task: TaskWeights, tokens: TokenIndex | None) -> TaskWeights:
    """Have a task leave out patches; its bottlenecks lose their convolutions, which need the whole grid."""
    if tokens is None:
        return task
    plain = {path: replace(form, conv=None, conv_bias=None) for path, form in task.forms.bottlenecks.items()}
    return replace(task, forms=replace(task.forms, bottlenecks=plain, tokens=tokens))
