"""Every served method of PEFT says in its forms what stock PEFT computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.custom_tasks import make_custom_task
from support.destinations import backbone_of
from support.formula_oracle import plain_logits
from support.oracle import MODULES, TaskFolder, lowered, make_backbone, make_peft_task, reference_logits
from support.peft_tasks import CONFIGS
from support.toy_backbone import DIM, Toy
from torch import Tensor

from store.accounting.report import storage_report
from store.adapters.checkpoint import check, read_checkpoint
from store.adapters.methods.supported import SUPPORTED
from store.errors import AdapterMismatchError
from store.registry.store import Store
from store.weights.backbones import Backbone
from store.weights.lowering.lower import LOWERINGS

CLASSES = 5


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def make(
    backbone: Backbone, folder: Path, name: str, *, depth: int = 3, rank: int = 4, kinds: tuple[str, ...] = MODULES
) -> TaskFolder:
    targets = [f"blocks.{block}.{kind}" for block in range(depth) for kind in kinds]
    folder.mkdir(exist_ok=True)
    return make_peft_task(backbone, TaskFolder(folder, depth), CONFIGS[name](targets, rank), classes=CLASSES)


def check_equal(backbone: Backbone, task: TaskFolder, images: Tensor) -> Tensor:
    check(read_checkpoint(task.folder), backbone.record, task.depth)
    ours = plain_logits(backbone, lowered(backbone, task), images)
    theirs = torch.stack(reference_logits(backbone, task, images))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    return theirs


def test_every_served_method_can_be_lowered() -> None:
    assert SUPPORTED.keys() == LOWERINGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_forms_of_a_method_say_what_stock_peft_computes(
    backbone: Backbone, tmp_path: Path, images: Tensor, name: str
) -> None:
    task = make(backbone, tmp_path, name)
    theirs = check_equal(backbone, task, images)
    vit = backbone.build()
    del vit.blocks[task.depth :]
    head = load_file(task.folder / "head.safetensors")
    with torch.inference_mode():
        alone = torch.nn.functional.linear(vit(images), head["weight"], head["bias"])
    assert (theirs - alone).abs().max() > 0.01, "the adapter does nothing, so nothing is shown"


@pytest.mark.parametrize(("kinds", "rank"), [(("mlp.fc2",), 2), (("attn.qkv", "mlp.fc1"), 3), (("attn.proj",), 1)])
@pytest.mark.parametrize("name", [name for name in CONFIGS if "," not in name])
def test_a_method_may_adapt_some_modules_at_any_rank(
    backbone: Backbone, tmp_path: Path, images: Tensor, name: str, kinds: tuple[str, ...], rank: int
) -> None:
    check_equal(backbone, make(backbone, tmp_path, name, depth=2, rank=rank, kinds=kinds), images)


@pytest.mark.parametrize("name", ["adalora", "dora", "vera", "hra", "unilora", "ln"])
def test_a_task_of_half_precision_is_lowered_to_the_numbers_that_it_holds(
    backbone: Backbone, tmp_path: Path, images: Tensor, name: str
) -> None:
    task = make(backbone, tmp_path, name)
    path = task.folder / "adapter_model.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}, path)
    check_equal(backbone, task, images)


def test_directions_that_adalora_gave_up_are_gone(backbone: Backbone, tmp_path: Path, images: Tensor) -> None:
    task = make(backbone, tmp_path, "adalora")
    path = task.folder / "adapter_model.safetensors"
    masks = {"blocks.0.attn.qkv": [True, False, False, True], "blocks.1.mlp.fc1": [False] * 4}
    tensors = load_file(path)
    for module, mask in masks.items():
        for part, axis in (("lora_A", 0), ("lora_E", 0), ("lora_B", 1)):
            key = f"base_model.model.{module}.{part}"
            tensors[key] = tensors[key].index_select(axis, torch.tensor(mask).nonzero()[:, 0]).contiguous()
    save_file(tensors, path)
    config = task.folder / "adapter_config.json"
    pattern = {f"{module}.lora_E": mask for module, mask in masks.items()}
    config.write_text(json.dumps({**json.loads(config.read_text()), "rank_pattern": pattern}))
    check_equal(backbone, task, images)
    assert "blocks.1.mlp.fc1" not in lowered(backbone, task).forms.deltas


BROKEN: dict[str, tuple[str, Callable[[Tensor], object], str]] = {
    "hra": ("hra_u", lambda tensor: tensor[:, 0].zero_(), "vectors"),
    "hra, orthogonal": ("hra_u", lambda tensor: tensor[:, 1].copy_(tensor[:, 0] * 2).mul_(0), "vectors"),
    "unilora": ("unilora_indices_A", lambda tensor: tensor[0, 0].fill_(50), r"outside 0\.\.49"),
    "vblora, the best alone": ("logits_A_topk_indices", lambda t: t.copy_(t[..., :1].expand_as(t)), "twice"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_tensors_that_give_no_numbers_are_refused_when_they_are_lowered(
    backbone: Backbone, tmp_path: Path, name: str
) -> None:
    ending, spoil, message = BROKEN[name]
    task = make(backbone, tmp_path, name, depth=1)
    path = task.folder / "adapter_model.safetensors"
    tensors = load_file(path)
    spoil(next(tensors[key] for key in sorted(tensors) if key.endswith(ending)))
    save_file(tensors, path)
    with pytest.raises(AdapterMismatchError, match=message):
        lowered(backbone, task)


def test_a_dora_that_leaves_nothing_of_a_row_is_refused_when_it_is_lowered(backbone: Backbone, tmp_path: Path) -> None:
    task = make(backbone, tmp_path, "dora", depth=1, rank=48, kinds=("attn.proj",))
    path = task.folder / "adapter_model.safetensors"
    tensors, stem = load_file(path), "base_model.model.blocks.0.attn.proj.lora"
    tensors[f"{stem}_A.weight"] = backbone.tensors["blocks.0.attn.proj.weight"].clone()
    tensors[f"{stem}_B.weight"] = torch.eye(48) / -2  # times 2, the scaling
    save_file(tensors, path)
    with pytest.raises(AdapterMismatchError, match="magnitudes are not all finite"):
        lowered(backbone, task)


def test_a_bank_index_below_zero_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    task = make(backbone, tmp_path, "vblora, the best alone", depth=1)
    path = task.folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(tensors[key] for key in sorted(tensors) if key.endswith("_topk_indices")).fill_(-1)[..., 1].fill_(0)
    save_file(tensors, path)
    with pytest.raises(AdapterMismatchError, match=r"outside 0\.\.299"):
        lowered(backbone, task)


def test_a_store_accounts_for_tasks_of_every_kind(store: Store, toy: Toy, tmp_path: Path) -> None:
    backbone = backbone_of(toy)
    for name in ("lora", "ia3", "beft", "ln"):
        task = make(backbone, tmp_path / name, name, depth=2)
        store.publish(name, task.folder, backbone="toy/vit", depth=2)
    task = make_custom_task(backbone, tmp_path / "beside", "houlsby", depth=2, classes=CLASSES)
    store.publish("beside", task.folder, backbone="toy/vit", depth=2)
    counted = storage_report(store)
    head, last_norm = 4 * CLASSES * (DIM + 1), 4 * 2 * DIM
    for task in counted.tasks:
        # of four blocks two are cut, which would take as much as the two that are left
        below = task.payload_nbytes - head - (last_norm if task.task == "ln" else 0)
        assert task.saved_by_cut_nbytes == below, task.task
    assert len(counted.tasks) == 5
