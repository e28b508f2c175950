"""Whether a task's tensors have the shapes of its backbone: the kernel reads as many numbers as the backbone has."""

from __future__ import annotations

from torch import Tensor

from store.adapters.widths import NO_CONVOLUTION
from store.errors import RefusedError
from store.weights.forms import Bottleneck, Delta, Forms, Kept, Norm, TaskWeights

MOST_RANK = 4096


def check_task(weights: TaskWeights, blocks: int, dim: int) -> None:
    """Raise `RefusedError` where the depth is not one of the backbone's, or the head is not for its features."""
    if not 1 <= weights.depth <= blocks:
        raise RefusedError(f"a task of {weights.depth} blocks: the backbone has {blocks}; give one of 1 to {blocks}")
    classes = len(weights.head_weight)
    wide = weights.head_weight.shape[-1] == 2 * dim  # of the class token and the mean of the patches
    _check("head weight", weights.head_weight, classes, 2 * dim if wide else dim)
    _check("head bias", weights.head_bias, classes)
    if (norm := weights.forms.norms.get("norm")) is not None:
        check_norm("norm", norm, dim)


def check_delta(path: str, delta: Delta, out: int, in_: int) -> None:
    _check_rank(path, delta.rank)
    if (delta.a is None) != (delta.b is None):
        raise RefusedError(f"{path} has one of the two factors of its low-rank part: give both or neither")
    _check(f"{path} a", delta.a, 1, delta.rank, in_)
    _check(f"{path} b", delta.b, 1, out, delta.rank)
    _check(f"{path} bias", delta.bias, 1, 1, out)
    _check(f"{path} out_scale", delta.out_scale, 1, 1, out)
    _check(f"{path} in_scale", delta.in_scale, 1, 1, in_)


def check_norm(path: str, norm: Norm, dim: int) -> None:
    _check(f"{path} weight", norm.weight, dim)
    _check(f"{path} bias", norm.bias, dim)


def check_bottleneck(path: str, form: Bottleneck, dim: int) -> None:
    width = form.down.shape[-1]
    _check_rank(path, width)
    _check(f"{path} down", form.down, dim, width)
    _check(f"{path} down_bias", form.down_bias, width)
    _check(f"{path} up", form.up, width, dim)
    _check(f"{path} up_bias", form.up_bias, dim)
    _check(f"{path} conv", form.conv, width, width, 3, 3)
    _check(f"{path} conv_bias", form.conv_bias, width)


def check_kept(path: str, kept: Kept, total: int) -> None:
    """Raise `RefusedError` unless a task keeps one at least of so many heads or units, and none beyond."""
    if kept.total != total or not 0 < kept.mask < 1 << total:
        raise RefusedError(
            f"{path} keeps some of {kept.total} heads or units up to {kept.mask.bit_length()}, and the backbone has "
            f"{total}: give at least one of these"
        )


def check_tokens(forms: Forms, depth: int, patches: int) -> None:
    """Raise `RefusedError` unless the index is of the task's blocks and so many patches, and nothing needs others."""
    tokens = forms.tokens
    if tokens is None:
        return
    if (tokens.blocks, tokens.patches) != (depth, patches):
        raise RefusedError(
            f"a token index of {tokens.blocks} blocks and {tokens.patches} patches: the task runs {depth} blocks, and "
            f"an image has {patches}; give the task's own"
        )
    if any(form.conv is not None for form in forms.bottlenecks.values()):
        raise RefusedError(NO_CONVOLUTION)


def _check_rank(path: str, rank: int) -> None:
    if rank > MOST_RANK:
        raise RefusedError(f"{path} has a rank of {rank}: the kernel takes {MOST_RANK} at most")


def _check(name: str, tensor: Tensor | None, *shape: int) -> None:
    if tensor is not None and tensor.shape != shape:
        raise RefusedError(f"{name} is {tuple(tensor.shape)}, and the backbone needs {shape}: give the task's own")
