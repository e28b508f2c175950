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


def tensors(task: TaskWeights) -> dict[str, torch.Tensor]:
    forms = {**task.forms.deltas, **task.forms.norms, **task.forms.bottlenecks}
    parts = {
        f"{path}.{field.name}": getattr(form, field.name)
        for path, form in forms.items()
        for field in dataclasses.fields(form)
    }
    return {"weight": task.head_weight, "bias": task.head_bias, **{k: v for k, v in parts.items() if v is not None}}


def check_same(loaded: TaskWeights, expected: TaskWeights) -> None:
    assert (loaded.depth, loaded.labels, loaded.nbytes) == (expected.depth, expected.labels, expected.nbytes)
    mine, theirs = tensors(loaded), tensors(expected)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype
        assert mine[name].stride() == tensor.stride()
        assert torch.equal(mine[name], tensor)
