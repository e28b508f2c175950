"""Find out which heads, units and patches a task needs: from the weights, from gradients, or by training soft masks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from sls.adapters.model import AdaptedModel
from sls.data.dataset import Dataset, Transform
from sls.progress import Progress, ProgressCallback
from sls.training.recipe import TrainingConfig, check_choice, check_real
from sls.training.soft_masks import Penalties, insert_masks, train_masks
from sls.width.importance import Importance, Scores, TokenScores, check_budget, check_share, check_unit_group
from store.adapters.widths import require_one_width
from store.errors import InvalidSettingError
from store.records.backbone import BackboneRecord
from store.records.bounds import check_number
from store.weights.backbones import Backbone
from store.weights.ordering import is_ordered
from store.weights.trunk import blocks_of, trunk_of

TAYLOR_BATCH, TAYLOR_BATCHES = 32, 10
GROUP = 32
"""Units that the kernel leaves out together: those of a slice of its packed weights."""
STAGE = "search"


@dataclass(frozen=True)
class WidthConfig:
    """How the width of a task is chosen: `budget` is the share of the blocks' operations that is kept.

    `epochs` and the three of L1 are of the criteria that train masks: passes over the training images, and the
    weights of the L1 norms in the loss. `with_depth` also cuts the depth, where that serves the budget better. `tokens`
    is the share of the patches that stay, over all blocks; None keeps all of them. MLP units stay or go in groups of
    `unit_group` neighbours.
    """

    criterion: str = "vit-slim"
    budget: float = 0.7
    epochs: int = 5
    l1_heads: float = 1e-3
    l1_units: float = 1e-4
    with_depth: bool = False
    tokens: float | None = None
    l1_tokens: float = 1e-4
    unit_group: int = GROUP

    def __post_init__(self) -> None:
        check_choice("width", self.criterion, CRITERIA)
        check_budget(self.budget)
        check_number("search epochs", self.epochs, least=1)
        check_number("unit group", self.unit_group, least=1)
        if self.tokens is not None:
            check_share(self.tokens)
            if self.criterion not in OF_TOKENS:
                raise InvalidSettingError(
                    f"{self.criterion!r} scores weights or outputs of a block, not the patches that it takes: prune "
                    f"tokens by {' or '.join(OF_TOKENS)}"
                )
        for name in ("l1_heads", "l1_units", "l1_tokens"):
            check_real(name, getattr(self, name))
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidSettingError(f"{name} {getattr(self, name)}: give a weight of at least 0")


@dataclass(frozen=True)
class WidthSubject:
    """A tuned task at its full width: `model` builds it, with what is to be trained beside the masks requiring grad."""

    dataset: Dataset
    backbone: Backbone
    model: Callable[[], AdaptedModel]
    recipe: TrainingConfig
    transform: Transform
    progress: ProgressCallback


def search_width(subject: WidthSubject, config: WidthConfig) -> Importance:
    """Score all heads and units of the task's blocks; one search serves every budget."""
    check_widths(config, subject.backbone.record)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(subject.recipe.seed)
        heads, units, *rest = (s.detach().double().numpy() for s in CRITERIA[config.criterion](subject, config))
    joint, nested = config.criterion == SLIMMING, is_ordered(subject.backbone)
    tokens = token_scores(subject.backbone, rest[0]) if rest else None
    return Importance(heads, units, joint, head_cost(subject.backbone), nested, tokens, config.unit_group)


def check_widths(config: WidthConfig, record: BackboneRecord) -> None:
    """Raise where no width index says what a search on this backbone finds, or its groups are above a block's units."""
    require_one_width(record)
    check_unit_group(config.unit_group, record.modules["blocks.0.mlp.fc1"][0])


def head_cost(backbone: Backbone) -> float:
    """Return how many MLP units take as many operations as one head: 8 T d h + 4 T² h against 4 T d."""
    require_one_width(backbone.record)
    vit = cast(VisionTransformer, backbone.skeleton())
    size, tokens = vit.blocks[0].attn.head_dim, vit.patch_embed.num_patches + vit.num_prefix_tokens
    return float((2 * vit.embed_dim + tokens) * size / vit.embed_dim)


def token_scores(backbone: Backbone, scores: Scores) -> TokenScores:
    """Return the scores of patches with what the backbone says of them."""
    vit = cast(VisionTransformer, backbone.skeleton())
    tokens, size = vit.patch_embed.num_patches + vit.num_prefix_tokens, vit.blocks[0].attn.head_dim
    rows, columns = vit.patch_embed.grid_size
    return TokenScores(scores, rows, columns, vit.num_prefix_tokens, tokens * size / vit.embed_dim)


def magnitudes(backbone: Backbone) -> Importance:
    """Return the magnitude of every head and unit of the backbone."""
    heads, units = (scores.detach().double().numpy() for scores in _norms(backbone))
    return Importance(heads, units, joint=False, head_cost=head_cost(backbone))


def magnitude(subject: WidthSubject, _: WidthConfig) -> tuple[Tensor, ...]:
    """Norm of all weights of a head or unit over the block's mean: DepGraph's group magnitude (Fang et al., CVPR 2023).

    It sees the backbone's weights alone, so it is the same for every task.
    """
    depth = len(trunk_of(subject.model().vit).dims)
    heads, units = _norms(subject.backbone)
    return heads[:depth], units[:depth]


def _norms(backbone: Backbone) -> tuple[Tensor, Tensor]:
    heads, units = [], []
    for _, block in blocks_of(backbone.build()):
        attn, mlp = block.attn, block.mlp
        qkv = attn.qkv.weight.unflatten(0, (3, attn.num_heads, -1)).square().sum(dim=(0, 2, 3))
        proj = attn.proj.weight.unflatten(1, (attn.num_heads, -1)).square().sum(dim=(0, 2))
        heads.append(_over_mean((qkv + proj).sqrt()))
        units.append(_over_mean((mlp.fc1.weight.square().sum(1) + mlp.fc2.weight.square().sum(0)).sqrt()))
    return torch.stack(heads), torch.stack(units)


def taylor(subject: WidthSubject, config: WidthConfig) -> tuple[Tensor, ...]:
    """Mean over batches of (dL/dz)², z being the factor of a head's or unit's output (Molchanov et al., CVPR 2019).

    dL/dz at 1 is the sum of w dL/dw over the group of weights that go with it: DepGraph's group Taylor. A patch's z
    multiplies what attention takes of it.
    """
    model, images = subject.model(), subject.dataset.train
    masks = insert_masks(model.vit.eval().requires_grad_(False), on_qkv=False, tokens=config.tokens is not None)
    scored = (masks.heads, masks.units, *([] if config.tokens is None else [masks.tokens]))
    labels, order = torch.from_numpy(images.labels), images.content_order()[: TAYLOR_BATCH * TAYLOR_BATCHES]
    batches = np.array_split(order, -(-len(order) // TAYLOR_BATCH))
    sums = [torch.zeros_like(factors) for factors in scored]
    began = time.monotonic()
    for done, rows in enumerate(batches, 1):
        logits = model.head(model.vit(images.inputs(rows, subject.transform)))
        loss = functional.cross_entropy(logits, labels[torch.from_numpy(rows)])
        gradients = torch.autograd.grad(loss, scored)
        sums = [total + gradient.square() / len(batches) for total, gradient in zip(sums, gradients, strict=True)]
        left = (time.monotonic() - began) / done * (len(batches) - done)
        subject.progress(Progress(STAGE, done, len(batches), left, loss=loss.item()))
    return tuple(sums)


def vit_slim(subject: WidthSubject, config: WidthConfig) -> tuple[Tensor, ...]:
    """|z|, z trained on queries, keys and values of a head, units and patches: ViT-Slim (Chavan et al., CVPR 2022)."""
    return _trained(subject, config, on_qkv=True)


def slimming(subject: WidthSubject, config: WidthConfig) -> tuple[Tensor, ...]:
    """|z|, z trained on the outputs of heads and units: Network Slimming (Liu et al., ICCV 2017), one threshold."""
    return _trained(subject, config, on_qkv=False)


def _trained(subject: WidthSubject, config: WidthConfig, *, on_qkv: bool) -> tuple[Tensor, ...]:
    recipe = replace(subject.recipe, epochs=config.epochs, schedule="constant", patience=0, augment="none", mixup=0.0)
    masks = train_masks(
        subject.model(),
        subject.dataset.train,
        subject.transform,
        recipe,
        on_qkv=on_qkv,
        l1=Penalties(config.l1_heads, config.l1_units, None if config.tokens is None else config.l1_tokens),
        stage=STAGE,
        progress=subject.progress,
    )
    scores = masks.heads.abs(), masks.units.abs()
    return scores if config.tokens is None else (*scores, masks.patches.abs())


def _over_mean(values: Tensor) -> Tensor:
    return values / values.mean()


SLIMMING = "slimming"
OF_TOKENS = ("vit-slim", "taylor")
"""The criteria that score patches, too."""
CRITERIA: Mapping[str, Callable[[WidthSubject, WidthConfig], tuple[Tensor, ...]]] = MappingProxyType(
    {"vit-slim": vit_slim, SLIMMING: slimming, "taylor": taylor, "magnitude": magnitude}
)
"""By name: the scores of heads (blocks, heads), units (blocks, units) and, where asked for, patches."""
