"""The slow twin of a load: each file read, verified and lowered by itself; and what the two must have in common."""

from __future__ import annotations

import dataclasses

import torch

from store.registry.store import Version
from store.weights.forms import TaskWeights
from store.weights.lowering.lower import lower
from support.oracle import Shop


def slowly(shop: Shop, version: Version, dtype: torch.dtype) -> TaskWeights:
    manifest, read = version.manifest, shop.store.read
    return lower(
        config=read(manifest.adapter.config),
        adapter=read(manifest.adapter.weights),
        head=read(manifest.head.weights),
        labels=read(manifest.head.labels),
        depth=manifest.depth,
        backbone=shop.backbone.tensors,
        dtype=dtype,
    )


def parts(task: TaskWeights) -> dict[str, object]:
    """Every field of every form, by path; without those that are None."""
    forms = {**task.forms.deltas, **task.forms.norms, **task.forms.bottlenecks}
    values = {
        f"{path}.{f.name}": getattr(form, f.name) for path, form in forms.items() for f in dataclasses.fields(form)
    }
    return {"weight": task.head_weight, "bias": task.head_bias, **{k: v for k, v in values.items() if v is not None}}


def tensors(task: TaskWeights) -> dict[str, torch.Tensor]:
    return {name: part for name, part in parts(task).items() if isinstance(part, torch.Tensor)}


def check_same(loaded: TaskWeights, expected: TaskWeights) -> None:
    assert (loaded.depth, loaded.labels, loaded.nbytes) == (expected.depth, expected.labels, expected.nbytes)
    mine, theirs = parts(loaded), parts(expected)
    assert mine.keys() == theirs.keys()
    for name, part in theirs.items():
        other = mine[name]
        if isinstance(part, torch.Tensor):
            assert isinstance(other, torch.Tensor)
            assert (other.dtype, other.stride()) == (part.dtype, part.stride())
            assert torch.equal(other, part)
        else:
            assert other == part
