"""The backbone in torch: on any device, in any dtype, and the twin that the kernel is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from serving.engine.adapter_ops import layer_norm
from serving.engine.core_threads import CoreThreads
from serving.engine.narrow_maps import NarrowMaps
from serving.engine.row_plan import EngineRow
from serving.engine.token_rows import TokenRows
from store.weights.forms import Forms, Norm, TaskWeights
from store.weights.regular_task import RegularTask
from store.weights.supported import TimmModel
from store.weights.tokens import check_forms
from store.weights.width import check_kept

UNADAPTED = Forms()


class Ends(Protocol):
    """What stands before the first block, and after the last that a row runs."""

    def stem(self, images: Tensor) -> Tensor:
        """Return the tokens (n, tokens, dim) that the first block takes."""

    def pooled(self, x: Tensor, norms: Sequence[Norm | None], *, depth: int, wide: bool) -> Tensor:
        """Return the features (n, dim) that heads at this depth take; `wide` heads take twice as many."""

    def heads(self, features: Tensor, tasks: Sequence[TaskWeights]) -> list[Tensor]:
        """Return the logits (classes,) float32 of each row's features (n, dim)."""


class PlainHeads:
    """Each row's head by itself."""

    def heads(self, features: Tensor, tasks: Sequence[TaskWeights]) -> list[Tensor]:
        return [head(own, task.head_weight, task.head_bias) for own, task in zip(features, tasks, strict=True)]


@dataclass(frozen=True)
class VitEnds(PlainHeads):
    """The ends of a plain vision transformer."""

    vit: VisionTransformer

    def stem(self, images: Tensor) -> Tensor:
        return stem(self.vit, images)

    def pooled(self, x: Tensor, norms: Sequence[Norm | None], *, depth: int, wide: bool) -> Tensor:  # noqa: ARG002
        return POOLS[wide](self.vit, x, norms)


class Blocks(Protocol):
    """The blocks of a backbone, which run rows of any tasks."""

    def run(self, x: Tensor, tasks: Sequence[Forms], blocks: range) -> Tensor:
        """Run x (n, tokens, dim), row i belonging to tasks[i], through the blocks, counted from 0; x stays as it is."""


@dataclass(frozen=True)
class TorchModel:
    """The frozen backbone as it runs; `one_by_one` runs each row alone, so that its bytes depend on no neighbour.

    `narrow` keeps the linear maps of tasks that leave out heads or units.
    """

    vit: TimmModel
    ends: Ends
    blocks: Blocks
    threads: CoreThreads
    one_by_one: bool
    narrow: NarrowMaps

    def prepare(self, task: TaskWeights | RegularTask) -> TaskWeights:
        """Return the task, lowered; raise a `RefusedError` where its width or token index is not of this backbone."""
        parameter = next(self.vit.parameters())
        weights = task.lowered(parameter.dtype, parameter.device) if isinstance(task, RegularTask) else task
        check_kept(weights.forms.kept, self.vit)
        check_forms(weights.forms, self.vit)
        return weights

    def prepared(self, task: TaskWeights) -> TaskWeights:
        return task

    def begin(self, images: Tensor, tasks: Sequence[TaskWeights]) -> TorchTokens:
        parameter = next(self.vit.parameters())
        return TorchTokens(self, images.to(parameter.device, parameter.dtype), tasks)


class TorchTokens:
    """The tokens of a batch's rows, in parts that the core threads run side by side."""

    def __init__(self, model: TorchModel, images: Tensor, tasks: Sequence[TaskWeights]) -> None:
        self._model = model
        self._tasks = tasks
        self._rows = TokenRows(model.threads, images, one_by_one=model.one_by_one)
        self._images = range(len(images))
        self._prefix = 0 if isinstance(model.vit, SwinTransformer) else model.vit.num_prefix_tokens

    def advance(self, rows: Sequence[EngineRow], sources: Sequence[int], start: int, stop: int) -> Mapping[int, Tensor]:
        if start == 0:
            self._rows.run(lambda images, _: self._model.ends.stem(images), self._images)
        logits: dict[int, Tensor] = {}
        while start < stop:
            forms = [UNADAPTED if row.task is None else cast(TaskWeights, row.task).forms for row in rows]
            steps = [None if own.tokens is None else own.tokens.steps.get(start) for own in forms]
            self._rows.gather(sources, steps, self._prefix)
            end = min([stop, *(event for event in self._events(rows, forms) if event > start)])
            self._rows.run(partial(self._model.blocks.run, blocks=range(start, end)), forms)
            logits |= self._finish(rows, end)
            rows = [row for row in rows if row.depth > end]
            sources, start = list(range(len(rows))), end
        return logits

    def _events(self, rows: Sequence[EngineRow], forms: Sequence[Forms]) -> set[int]:
        """Return after how many blocks a task ends or a row leaves out patches."""
        ends = {self._tasks[member].depth for row in rows for member in row.members}
        return ends.union(*(own.tokens.steps for own in forms if own.tokens is not None))

    def _finish(self, rows: Sequence[EngineRow], depth: int) -> dict[int, Tensor]:
        ending = [
            (index, member)
            for index, row in enumerate(rows)
            for member in row.members
            if self._tasks[member].depth == depth
        ]
        logits: dict[int, Tensor] = {}
        for places, x in self._rows.by_count([index for index, _ in ending]):
            logits |= self._pooled(x, [ending[place][1] for place in places], depth)
        return logits

    def _pooled(self, x: Tensor, members: Sequence[int], depth: int) -> dict[int, Tensor]:
        """Return the logits of these members, whose rows have as many tokens."""
        tasks = [self._tasks[member] for member in members]
        logits: dict[int, Tensor] = {}
        for wide in (False, True):
            places = [place for place, task in enumerate(tasks) if (task.head_weight.shape[1] > x.shape[2]) == wide]
            if not places:
                continue
            norms = [tasks[place].forms.norms.get("norm") for place in places]
            own = x if len(places) == len(tasks) else x[places]
            (features,) = self._rows.applied(partial(self._model.ends.pooled, depth=depth, wide=wide), [own], norms)
            made = self._model.ends.heads(features, [tasks[place] for place in places])
            logits.update(zip([members[place] for place in places], made, strict=True))
        return logits


def stem(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Return the tokens (n, tokens, dim) that the first block takes."""
    return with_positions(vit, vit.patch_embed(images))


def with_positions(vit: VisionTransformer, patches: Tensor) -> Tensor:
    """Return what the stem makes of embedded patches: the tokens that the first block takes."""
    return cast(Tensor, vit.norm_pre(vit.patch_drop(vit._pos_embed(patches))))


def pooled(vit: VisionTransformer, x: Tensor, norms: Sequence[Norm | None]) -> Tensor:
    """Return the features (n, dim) that the heads take, of tokens (n, tokens, dim)."""
    # A LayerNorm sees one token at a time, so only those before the patches need it where only they are pooled.
    x = x[:, : vit.num_prefix_tokens] if vit.global_pool == "token" else x
    return cast(Tensor, vit.forward_head(layer_norm(x, vit.norm, norms), pre_logits=True))


def pooled_with_patches(vit: VisionTransformer, x: Tensor, norms: Sequence[Norm | None]) -> Tensor:
    """Return the class token and the mean of the patches (n, 2 dim), as heads of DINOv2 take them."""
    normed = layer_norm(x, vit.norm, norms)
    return torch.cat([normed[:, 0], normed[:, vit.num_prefix_tokens :].mean(dim=1)], dim=1)


POOLS = (pooled, pooled_with_patches)
"""By whether a head is twice as wide as the tokens."""


def head(feature: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the logits (classes,) float32 of one row's features (dim,)."""
    return F.linear(feature, weight, bias).float()
