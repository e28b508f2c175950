"""The exact forms that the engine multiplies with; every supported method is lowered to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from store.adapters.methods.spec import block_number
from store.records.tokens import TokenIndex

Activation = Literal["relu", "gelu", "quick_gelu"]
Input = Literal["normed", "residual", "output", "sum"]


class Form:
    """A frozen dataclass whose tensors are moved together and whose bytes are counted."""

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Self:
        moved = {name: tensor.to(device, dtype).contiguous() for name, tensor in self._tensors().items()}
        return replace(self, **moved)  # type: ignore[type-var]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def _tensors(self) -> dict[str, Tensor]:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return {name: value for name, value in values if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Delta(Form):
    """The change of one linear map: y = out_scale * (W (in_scale * x) + bias_W) + b (a x) + bias.

    a is (1, rank, in) and b (1, out, rank), both or neither; in_scale is (1, 1, in), out_scale and bias are
    (1, 1, out), each where there is one: rows of a batch are joined along the first axis. Any scaling of the method's
    own is within b.

    in_turn (1, parts, size, size) multiplies each part of x, a row vector of `size` numbers, from the right before
    W sees it. out_turn (1, 1, out) adds out_turn * h' to out_scale * h, where h = W x + bias_W and h' is h with the two
    halves of each group of `group` numbers exchanged.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    bias: Tensor | None = None
    in_scale: Tensor | None = None
    out_scale: Tensor | None = None
    in_turn: Tensor | None = None
    out_turn: Tensor | None = None
    group: int = 0

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[1]

    @cached_property
    def turns(self) -> tuple[tuple[int, ...] | None, int] | None:
        """The sizes of in_turn and the group of out_turn, None where there is neither."""
        if self.in_turn is None and self.out_turn is None:
            return None
        return None if self.in_turn is None else tuple(self.in_turn.shape[1:]), self.group

    @cached_property
    def shape(self) -> tuple[int, bool, bool, bool]:
        """The rank, and which parts there are: equal for deltas of one map that a batch adds together."""
        return self.rank, self.bias is not None, self.in_scale is not None, self.out_scale is not None


@dataclass(frozen=True)
class Norm(Form):
    """A layer norm's weight and bias, both (dim,), in place of the backbone's."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Bottleneck(Form):
    """A nonlinear bottleneck g beside attention or the MLP f of a block, added to what the block makes of x.

    x' = x + f(norm(x)) + g(v), f with its layer scale; g(v) = act(v @ down + down_bias) @ up + up_bias, any scaling
    within up and up_bias. Where there is a 3 x 3 convolution, it and the activation again come before `up`: over
    the grid of patches, each prefix token a grid of one. v is norm(x) ("normed"), x ("residual"), f(norm(x))
    ("output") or x + f(norm(x)) ("sum"). down (dim, hidden), down_bias (hidden,), up (hidden, dim), up_bias (dim,),
    conv (hidden, hidden, 3, 3), conv_bias (hidden,).
    """

    input: Input
    activation: Activation
    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    conv: Tensor | None = None
    conv_bias: Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """The heads or units that a task keeps of `total`: bit i of the mask stands for the i-th."""

    mask: int
    total: int

    @cached_property
    def count(self) -> int:
        return self.mask.bit_count()

    @property
    def is_prefix(self) -> bool:
        """Whether the first ones are kept, so that a view of the weights has them."""
        return self.mask & (self.mask + 1) == 0


@dataclass(frozen=True)
class Forms:
    """All forms of an adapter: deltas of linear maps and norms by full path, bottlenecks by `blocks.N.attn` or `.mlp`.

    The last norm of the backbone, `norm`, may be among the norms. `kept` says by the same two paths which heads and
    units there are, where not all; the deltas there are of the kept shapes. `tokens` says which patches each block runs
    on, where not on all.
    """

    deltas: Mapping[str, Delta] = field(default_factory=dict)
    norms: Mapping[str, Norm] = field(default_factory=dict)
    bottlenecks: Mapping[str, Bottleneck] = field(default_factory=dict)
    kept: Mapping[str, Kept] = field(default_factory=dict)
    tokens: TokenIndex | None = None

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Forms:
        return Forms(
            {path: form.to(device, dtype) for path, form in self.deltas.items()},
            {path: form.to(device, dtype) for path, form in self.norms.items()},
            {path: form.to(device, dtype) for path, form in self.bottlenecks.items()},
            self.kept,
            self.tokens,
        )

    @property
    def nbytes(self) -> int:
        forms = (*self.deltas.values(), *self.norms.values(), *self.bottlenecks.values())
        return sum(form.nbytes for form in forms)

    @cached_property
    def has_turns(self) -> bool:
        """Say whether a map's inputs or outputs are turned, which only the engine in torch does."""
        return any(delta.turns is not None for delta in self.deltas.values())

    @property
    def first_block(self) -> int | None:
        """The lowest block that is adapted, narrowed or short of patches, counted from 1; None where no block is."""
        paths = (path for forms in (self.deltas, self.norms, self.bottlenecks, self.kept) for path in forms)
        cuts = () if self.tokens is None else (block + 1 for block in self.tokens.steps)
        return min((*filter(None, map(block_number, paths)), *cuts), default=None)


@dataclass(frozen=True)
class TaskWeights:
    """All that the engine needs of one version: its forms, its head (classes, dim) and (classes,), its labels."""

    depth: int
    forms: Forms
    head_weight: Tensor
    head_bias: Tensor
    labels: tuple[str, ...]

    @cached_property
    def nbytes(self) -> int:
        return self.forms.nbytes + self.head_weight.nbytes + self.head_bias.nbytes

    @cached_property
    def rank(self) -> int:
        """The rank of one of its deltas, by which like tasks become neighbours in a batch; 0 without any."""
        return next((delta.rank for delta in self.forms.deltas.values()), 0)

    @cached_property
    def first_block(self) -> int:
        """The lowest adapted block, counted from 1, depth + 1 where none is; those below are the backbone's alone."""
        first = self.forms.first_block
        return self.depth + 1 if first is None else first
