"""From a store to memory: a version's files are mapped, and hashed while they are lowered."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from store.records.manifest import Manifest
from store.registry.read_only_store import ReadOnlyStore
from store.weights.forms import TaskWeights
from store.weights.lowering.lower import ADAPTER, HEAD, Tensors, lower_tensors, with_head
from store.weights.lowering.stacked_lora import lower_blocks
from store.weights.tensor_views import tensors_in
from store.weights.width import NarrowedTensors, kept_of


def load_task(
    store: ReadOnlyStore,
    manifest: Manifest,
    *,
    backbone: Tensors,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> TaskWeights:
    """Read, verify and lower a version to the weights that `lower` returns, in less time.

    The digests (BLAKE3 where the manifest has it, else SHA-256) are taken on another thread while this one lowers, and
    nothing is returned before they are right: raises `IntegrityError` where one is not, whatever else went wrong, and
    `RefusedError` where a number is not finite in this dtype. The weights are memory of their own, and no file stays
    open or mapped.
    """
    adapter, head = manifest.adapter, manifest.head
    width, tokens = manifest.prune_index.width, manifest.prune_index.tokens
    backbone = backbone if width is None else NarrowedTensors(backbone, width)
    blobs = adapter.weights, head.weights, adapter.config, head.labels
    with store.viewing(*blobs, blake3=manifest.blake3) as (weights, top, config, labels):
        settings = json.loads(bytes(config))
        forms = lower_blocks(settings, weights, dtype=dtype, device=device)
        if forms is None:
            # In a copy: a lowering may hand on what it got, and no task may keep a file mapped.
            tensors = tensors_in(memoryview(bytearray(weights)), ADAPTER)
            forms = lower_tensors(settings, tensors, backbone, dtype, device)
        if width is not None or tokens is not None:
            forms = replace(forms, kept=kept_of(width), tokens=tokens)
        return with_head(forms, tensors_in(top, HEAD), bytes(labels), manifest.depth, dtype, device)
