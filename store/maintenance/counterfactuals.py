"""What the same tasks would take in other forms: as whole models, pruned or deduplicated, and in memory."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from store.adapters.methods.spec import block_number
from store.adapters.safetensors_header import TensorInfo, header_nbytes, parse_header
from store.backends.blobs import Blobs
from store.records.backbone import BackboneRecord
from store.records.blob import Blob
from store.records.version import Version

PARALLEL_SITES = (".attn", ".mlp")
FP32 = 4  # bytes a parameter
SERVING = 2  # bfloat16


@dataclass(frozen=True)
class Counterfactuals:
    """Bytes that the latest versions would take as whole models with merged adapters, without headers.

    Pruned copies keep blocks 1..depth in fp32; deduplicated copies are full fp32 ones that store equal tensors once:
    a task then owns the linear maps that it adapts, and its head.
    """

    full_copies_fp32: int
    full_copies_serving_dtype: int
    pruned_copies: int
    deduplicated_copies: int


@dataclass(frozen=True)
class Resident:
    """Bytes in memory with every task loaded: one backbone and all adapters, or one whole model for each task."""

    shared_nbytes: int
    copies_nbytes: int


@dataclass(frozen=True)
class TaskTensors:
    """A task's latest version with the headers of its two tensor files."""

    version: Version
    record: BackboneRecord
    adapter: Mapping[str, TensorInfo]
    head: Mapping[str, TensorInfo]

    @property
    def payload_nbytes(self) -> int:
        return sum(info.nbytes for info in [*self.adapter.values(), *self.head.values()])

    @property
    def head_parameters(self) -> int:
        return sum(map(_elements, self.head.values()))

    @property
    def adapted(self) -> Counter[str]:
        """Parameters of each linear map and norm that the task adapts; parallel adapters adapt none."""
        linear, norm = self.record.modules, 2 * self.record.dim
        modules = (m for m in self.version.manifest.adapter.modules if not m.endswith(PARALLEL_SITES))
        return Counter({m: math.prod(linear[m]) if m in linear else norm for m in modules})


def read_tensors(blobs: Blobs, version: Version, records: Mapping[str, BackboneRecord]) -> TaskTensors:
    manifest = version.manifest
    return TaskTensors(
        version,
        records[manifest.backbone],
        _header(blobs, manifest.adapter.weights),
        _header(blobs, manifest.head.weights),
    )


def _header(blobs: Blobs, blob: Blob) -> dict[str, TensorInfo]:
    path = blobs.locate(blob)
    size = min(header_nbytes(blobs.prefix(blob, 8), path), blob.nbytes)
    return parse_header(blobs.prefix(blob, size), blob.nbytes, path)


def saved_by_cut(task: TaskTensors) -> int:
    """Return the bytes that adapters above the cut would take, each block as much as an adapted one on average."""
    manifest = task.version.manifest
    adapted = {block_number(module) for module in manifest.adapter.modules} - {0}
    payload = sum(info.nbytes for name, info in task.adapter.items() if "blocks." in name)
    return payload * (task.record.blocks - manifest.depth) // max(1, len(adapted))


def counterfactuals(tasks: list[TaskTensors]) -> Counterfactuals:
    by_backbone: defaultdict[str, list[TaskTensors]] = defaultdict(list)
    for task in tasks:
        by_backbone[task.record.id.fingerprint].append(task)
    full = sum(task.record.parameters + task.head_parameters for task in tasks)
    pruned = sum(_kept_parameters(task) + task.head_parameters for task in tasks)
    return Counterfactuals(
        full_copies_fp32=FP32 * full,
        full_copies_serving_dtype=SERVING * full,
        pruned_copies=FP32 * pruned,
        deduplicated_copies=FP32 * sum(map(_deduplicated, by_backbone.values())),
    )


def _kept_parameters(task: TaskTensors) -> int:
    cut = task.record.blocks - task.version.manifest.depth
    return task.record.parameters - cut * task.record.block_parameters


def _deduplicated(tasks: list[TaskTensors]) -> int:
    """Return the parameters of tasks on one backbone: their own, and those of the backbone that a task shares."""
    own = sum(task.adapted.total() + task.head_parameters for task in tasks)
    replaced = set.intersection(*(set(task.adapted) for task in tasks))
    return tasks[0].record.parameters - sum(tasks[0].adapted[module] for module in replaced) + own


def resident(tasks: list[TaskTensors]) -> Resident:
    backbones = {task.record.id.fingerprint: task.record.nbytes for task in tasks}
    heads = sum(info.nbytes for task in tasks for info in task.head.values())
    return Resident(
        shared_nbytes=sum(backbones.values()) + sum(task.payload_nbytes for task in tasks),
        copies_nbytes=sum(task.record.nbytes for task in tasks) + heads,
    )


def _elements(info: TensorInfo) -> int:
    return math.prod(info.shape)
