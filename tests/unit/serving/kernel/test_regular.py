"""Regular LoRA tasks packed straight from their files, against the slow twin: read, lowered by module, packed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.kernel_cases import best_library, kernel_engine
from support.loading import slowly
from support.oracle import Shop, make_task, open_shop

from serving.engine.engine import Engine
from serving.kernel import regular
from serving.kernel.task import PackedTask, TaskPacker
from store.errors import RefusedError
from store.registry.store import Version
from store.weights.load_task import load_prepared

DEPTH, CLASSES = 4, 5
WEIGHTS, HEAD = "adapter_model.safetensors", "head.safetensors"
OPTIONS: dict[str, dict[str, object]] = {
    "every linear map": {},
    "one linear map of one block": {"depth": 1, "modules": ("attn.proj",)},
    "a rank for each kind": {"rank_pattern": {"attn.qkv": 2, "fc1": 40}},
    "rank-stabilised": {"use_rslora": True},
    "an alpha for each block": {"alpha_pattern": {f"blocks.{block}.mlp.fc1": 3 * block + 1 for block in range(4)}},
    "an odd rank": {"rank": 3},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop"), embed_dim=96) as shop:
        yield shop


@pytest.fixture
def engine(shop: Shop) -> Engine:
    return kernel_engine(shop.backbone, best_library())


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was laid out as a lowered task is."""
    laid_out: list[object] = []
    plan = TaskPacker.plan
    monkeypatch.setattr(TaskPacker, "plan", lambda self, task: laid_out.append(task) or plan(self, task))
    return laid_out


def published(shop: Shop, folder: Path, dtype: torch.dtype, **options: object) -> Version:
    made = make_task(shop.backbone, folder, **{"depth": DEPTH, "classes": CLASSES, **options})
    for name in (WEIGHTS, HEAD):
        save_file({key: tensor.to(dtype) for key, tensor in load_file(folder / name).items()}, folder / name)
    return shop.store.publish("task", folder, backbone=shop.backbone.record.name, depth=made.depth)


def packed(shop: Shop, engine: Engine, version: Version) -> PackedTask:
    task = load_prepared(
        shop.store, version.manifest, engine.prepare, backbone=shop.backbone.tensors, dtype=torch.bfloat16, device="cpu"
    )
    assert isinstance(task, PackedTask)
    return task


def offsets(task: PackedTask) -> tuple[np.ndarray, tuple[int, ...]]:
    """The integers that the kernel reads, with addresses in the task's memory as their offsets there."""
    start, end = task.memory.ctypes.data, task.memory.ctypes.data + task.memory.nbytes

    def offset(value: int) -> int:
        return value - start if start <= value < end else value

    return np.vectorize(offset)(task.forms), tuple(map(offset, task.exit))


def check_same(task: PackedTask, expected: PackedTask) -> None:
    assert task.memory.tobytes() == expected.memory.tobytes()
    (forms, exit_), (other_forms, other_exit) = offsets(task), offsets(expected)
    np.testing.assert_array_equal(forms, other_forms)
    assert exit_ == other_exit
    for name in ("depth", "first_block", "labels", "slices", "work", "nbytes", "norm", "head"):
        assert getattr(task, name) == getattr(expected, name), name
    assert task.forms_at == task.forms.ctypes.data


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_task_is_packed_from_its_file_byte_by_byte_as_once_it_is_lowered(
    shop: Shop, engine: Engine, plans: list[object], tmp_path: Path, options: dict[str, object], saved: torch.dtype
) -> None:
    for seed in (1, 2):
        version = published(shop, tmp_path, saved, seed=seed, **options)
        check_same(packed(shop, engine, version), engine._model.kernel.pack(slowly(shop, version, torch.bfloat16)))
    assert len(plans) == 3  # two of the twin, and one of the structure


def test_a_number_that_is_not_finite_is_refused_with_its_module_whether_or_not_the_structure_is_known(
    shop: Shop, engine: Engine, tmp_path: Path
) -> None:
    for sound in (None, "known"):
        if sound:
            packed(shop, engine, published(shop, tmp_path, torch.float32))
        made = make_task(shop.backbone, tmp_path, depth=DEPTH, classes=CLASSES)
        factors = load_file(made.folder / WEIGHTS)
        factors["base_model.model.blocks.2.mlp.fc2.lora_B.weight"][3, 1] = torch.finfo(torch.float32).max / 1.5
        save_file(factors, made.folder / WEIGHTS)
        version = shop.store.publish("task", tmp_path, backbone=shop.backbone.record.name, depth=DEPTH)
        with pytest.raises(RefusedError, match=r"module 'blocks\.2\.mlp\.fc2': its numbers are not all finite in bfl"):
            packed(shop, engine, version)
    make_task(shop.backbone, tmp_path, depth=DEPTH, classes=CLASSES)
    head = load_file(tmp_path / HEAD)
    head["weight"][2, 7] = torch.finfo(torch.float32).max
    save_file(head, tmp_path / HEAD)
    version = shop.store.publish("task", tmp_path, backbone=shop.backbone.record.name, depth=DEPTH)
    with pytest.raises(RefusedError, match="head: its numbers are not all finite"):
        packed(shop, engine, version)


def test_structures_that_were_not_used_lately_are_forgotten(
    shop: Shop, engine: Engine, plans: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regular, "MOST_STRUCTURES", 2)
    versions = [published(shop, tmp_path, torch.bfloat16, rank=rank) for rank in (1, 2, 3)]
    for index in (0, 1, 0, 2, 0, 1):
        packed(shop, engine, versions[index])
    assert len(plans) == 4
