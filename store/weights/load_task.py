"""From a store to memory: a version's files are mapped, and verified while they are lowered or packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from store.records.manifest import Manifest
from store.registry.read_only_store import ReadOnlyStore
from store.weights.forms import TaskWeights
from store.weights.lowering.lower import ADAPTER, HEAD, Tensors, lower_tensors, with_head
from store.weights.regular_task import RegularTask
from store.weights.tensor_views import tensors_in
from store.weights.width import NarrowedTensors, kept_of

T = TypeVar("T")


def load_task(
    store: ReadOnlyStore,
    manifest: Manifest,
    *,
    backbone: Tensors,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> TaskWeights:
    """Read, verify and lower a version to the weights that `lower` returns, in less time."""

    def lowered(task: TaskWeights | RegularTask) -> TaskWeights:
        return task.lowered(dtype, device) if isinstance(task, RegularTask) else task

    return load_prepared(store, manifest, lowered, backbone=backbone, dtype=dtype, device=device)


def load_prepared(
    store: ReadOnlyStore,
    manifest: Manifest,
    prepare: Callable[[TaskWeights | RegularTask], T],
    *,
    backbone: Tensors,
    dtype: torch.dtype,
    device: str | torch.device,
) -> T:
    """Read and verify a version, and return what `prepare` makes of it, which may hold no view of a file.

    `prepare` gets a regular LoRA as it stands in its files, and every other task lowered. What it does counts only
    once the digests are right (BLAKE3 where the manifest has it, else SHA-256): raises `IntegrityError` where one is
    not, whatever else went wrong, and `RefusedError` where a number is not finite in this dtype. No file stays open or
    mapped.
    """
    adapter, head, index = manifest.adapter, manifest.head, manifest.prune_index
    width, whole = index.width, index.width is None and index.tokens is None
    config, labels = store.read_shared(adapter.config), store.read_shared(head.labels)
    with store.viewing(adapter.weights, head.weights, blake3=manifest.blake3) as (weights, top):
        regular = RegularTask.of(manifest.depth, config, weights, top, labels)
        if regular is not None and whole:
            return prepare(regular)
        if regular is not None:
            task = regular.lowered(dtype, device)
        else:
            # In a copy: a lowering may hand on what it got, and no task may keep a file mapped.
            tensors = tensors_in(memoryview(bytearray(weights)), ADAPTER)
            of_width = backbone if width is None else NarrowedTensors(backbone, width)
            forms = lower_tensors(json.loads(config), tensors, of_width, dtype, device)
            task = with_head(forms, tensors_in(top, HEAD), labels, manifest.depth, dtype, device)
        if not whole:
            task = replace(task, forms=replace(task.forms, kept=kept_of(width), tokens=index.tokens))
        return prepare(task)
