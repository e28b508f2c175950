"""The guards of PEFT's methods: what does not say exactly what stock PEFT computes is refused when it is published."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from support.oracle import TaskFolder, make_backbone, make_peft_task
from support.peft_tasks import CONFIGS
from support.toy_backbone import change_tensors, set_option

from store.adapters.checkpoint import check, read_checkpoint
from store.adapters.methods.peft import REASONS
from store.adapters.methods.supported import PREFIX, SUPPORTED, supported_method
from store.errors import AdapterMismatchError, RefusedError, UnservedAdapterError
from store.weights.backbones import Backbone

TARGETS = ["blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.1.mlp.fc2"]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def originals(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def original(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp("task")
            folders[name] = make_peft_task(backbone, TaskFolder(folder, 2), CONFIGS[name](TARGETS, 3), classes=3).folder
        return folders[name]

    return original


@pytest.fixture
def task(originals: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Give a copy of a task of depth 2 by the name of its config."""
    return lambda name: Path(shutil.copytree(originals(name), tmp_path / "task"))


def fit(folder: Path, backbone: Backbone, depth: int = 2) -> None:
    check(read_checkpoint(folder), backbone.record, depth)


def first(tensors: Tensors, ending: str = "") -> str:
    return next(key for key in sorted(tensors) if key.startswith(PREFIX) and key.endswith(ending))


def one_less(tensors: Tensors) -> None:
    del tensors[first(tensors)]


def wider(tensors: Tensors) -> None:
    key = first(tensors)
    tensors[key] = torch.cat([tensors[key], tensors[key]])


def of_other_numbers(tensors: Tensors) -> None:
    key = first(tensors)
    tensors[key] = tensors[key].double() if tensors[key].is_floating_point() else tensors[key].float()


def without_a_module(tensors: Tensors) -> None:
    module = first(tensors).removeprefix(PREFIX).rsplit(".", 1)[0]
    module = next(path for path in (*TARGETS, "blocks.0.norm1") if module.startswith(path))
    for key in [key for key in tensors if key.startswith(f"{PREFIX}{module}.")]:
        del tensors[key]


def spoilt(tensors: Tensors) -> None:
    tensors[first(tensors)].view(-1)[0].fill_(float("inf"))


def elsewhere(tensors: Tensors) -> None:
    for key in [key for key in tensors if ".1." in key]:
        tensors[key.replace(".1.", ".2.")] = tensors.pop(key)


CHANGES: dict[str, Callable[[Tensors], None]] = {
    "one tensor less": one_less,
    "one tensor more": lambda tensors: tensors.update({f"{PREFIX}blocks.0.attn.qkv.lora_Z": torch.ones(1)}),
    "a tensor beside the modules": lambda tensors: tensors.update({"base_model.vera_C": torch.ones(2, 2)}),
    "a tensor of another shape": wider,
    "a tensor of other numbers": of_other_numbers,
    "one module less": without_a_module,
    "one module elsewhere": elsewhere,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_that_the_config_and_the_backbone_contradict_is_refused(
    backbone: Backbone, task: Callable[[str], Path], name: str, change: str
) -> None:
    folder = task(name)
    change_tensors(folder, CHANGES[change])
    with pytest.raises(AdapterMismatchError):
        fit(folder, backbone)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_above_the_depth_is_refused(backbone: Backbone, task: Callable[[str], Path], name: str) -> None:
    with pytest.raises(AdapterMismatchError, match="in block 2, above depth 1"):
        fit(task(name), backbone, 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_option_of_tomorrow_is_refused_by_name(backbone: Backbone, task: Callable[[str], Path], name: str) -> None:
    folder = task(name)
    set_option(folder, an_option_of_tomorrow=3)
    with pytest.raises(UnservedAdapterError, match="an_option_of_tomorrow"):
        fit(folder, backbone)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "ln"])
def test_modules_that_every_task_shares_are_not_adapted(
    backbone: Backbone, task: Callable[[str], Path], name: str
) -> None:
    folder = task(name)
    set_option(folder, target_modules=[*TARGETS, "patch_embed.proj"])
    with pytest.raises(AdapterMismatchError, match=r"patch_embed\.proj.*every task shares"):
        fit(folder, backbone)


OPTIONS: dict[str, list[tuple[dict[str, object], str]]] = {
    "adalora": [
        ({"lora_alpha": 0}, "lora_alpha above 0"), ({"init_r": None}, "init_r >= 1"),
        ({"init_r": 4}, "factors of shapes"),
        ({"use_rslora": True}, "use_rslora"), ({"alpha_pattern": {"qkv": 3}}, "alpha_pattern"),
        ({"rank_pattern": {"blocks.0.attn.qkv.lora_E": [True, False]}}, "3 values true or false"),
        ({"rank_pattern": {"blocks.0.attn.qkv.lora_E": [1, 1, 1]}}, "3 values true or false"),
        ({"rank_pattern": {"blocks.0.attn.qkv.lora_E": [True, True, False]}}, "factors of shapes"),
    ],
    "dora": [({"use_dora": False}, "factors of shapes"), ({"lora_bias": True}, "does not go with DoRA")],
    "vera": [({"save_projection": False}, "save_projection=True"), ({"r": 4}, "factors of shapes"),
             ({"exclude_modules": ["fc1"]}, "exclude_modules"), ({"bias": "all"}, "bias"), ({"r": 193}, "above 192")],
    "pvera": [({"r": 193}, "above 192"),
              ({"sample_at_inference": True}, "is drawn"), ({"save_projection": False}, "save_projection=True")],
    "delora": [({"rank_pattern": {}}, "factors of shapes"), ({"r": "3"}, "r >= 1"), ({"bias": "delora_only"}, "bias")],
    "gralora": [({"r": 18, "gralora_k": 2}, "more than its 144 x 48"),
                ({"gralora_k": 5}, "does not divide"), ({"hybrid_r": 2}, "factors of shapes"),
                ({"gralora_k": None}, "gralora_k >= 1"), ({"alpha": None}, "expected a number")],
    "vblora": [({"r": 193}, "above 192"), ({"topk": 21}, "at most num_vectors"), ({"vector_length": 7}, "must divide"),
               ({"save_only_topk_weights": True}, "factors of shapes"), ({"num_vectors": 21}, "factors of shapes")],
    "unilora": [({"save_indices": False}, "save_indices=True"), ({"theta_d_length": 51}, "share have shapes")],
    "tinylora": [({"save_projection": False}, "save_projection=True"), ({"weight_tying": 1.5}, "expected 0 to 1"),
                 ({"weight_tying": 1.0}, "not a factor of TinyLoRA"), ({"u": 4}, "factors of shapes")],
    "loha": [({"r": 2}, "factors of shapes"), ({"alpha": None}, "a number"), ({"bias": "all"}, "bias")],
    "lokr": [({"decompose_factor": 5}, "factors of shapes"), ({"decompose_factor": None}, "decompose_factor"),
             ({"decompose_both": True, "r": 3}, "factors of shapes")],
    "hra": [({"r": 3}, "factors of shapes"), ({"bias": "hra_only"}, "bias")],
    "miss": [({"init_weights": "bat"}, "full rank"), ({"init_weights": "mini", "mini_r": 12}, "factors of shapes"),
             ({"r": 1000}, "needs r up to")],
    "deft": [({"decomposition_method": "svd"}, "tune with relu or qr"), ({"para": True}, "factors of shapes")],
    "peanut": [({"act_fn": "mish"}, "tune with relu"), ({"depth": 1}, "factors of shapes"), ({"depth": 101}, "shallow"),
               ({"scaling": None}, "expected a number")],
    "ia3": [({"feedforward_modules": []}, "factors of shapes"), ({"feedforward_modules": None}, "list of names"),
            ({"feedforward_modules": [3]}, "list of names"), ({"feedforward_modules": "(.*.*)*" * 1000}, "characters"),
            ({"layers_to_transform": [1]}, "layers_to_transform")],
    "beft": [({"exclude_modules": ["fc1"]}, "exclude_modules")],
    "ln": [({"target_modules": r"blocks\.0\.norm1"}, "not in the config's target_modules"),
           ({"layers_to_transform": [1]}, "layers_to_transform")],
    "glora": [({"config_A_B": "lora"}, "config_A_B 'vector' or 'constant'"), ({"config_A_B": None}, "config_A_B"),
              ({"config_A_B": "constant"}, "factors of shapes"), ({"config_D_E": "lora"}, "config_D_E"),
              ({"config_C": "constant"}, "config_C")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "message"), [(name, *case) for name, cases in OPTIONS.items() for case in cases], ids=str
)
def test_a_config_that_says_something_else_is_refused_with_what_and_why(
    backbone: Backbone, task: Callable[[str], Path], name: str, options: dict[str, object], message: str
) -> None:
    folder = task(name)
    set_option(folder, **options)
    with pytest.raises((AdapterMismatchError, UnservedAdapterError), match=message):
        fit(folder, backbone)


@pytest.mark.parametrize(("name", "rank"), [("loha", 6), ("lokr", 6)])
def test_products_that_are_larger_than_the_map_are_refused(
    backbone: Backbone, task: Callable[[str], Path], name: str, rank: int
) -> None:
    folder = task(name)
    set_option(folder, r=rank)
    with pytest.raises(UnservedAdapterError, match=r"factors of rank \d+, more than its 144 x 48 weights.*lower r"):
        fit(folder, backbone)


def test_norms_are_adapted_by_norm_tuning_alone(backbone: Backbone, task: Callable[[str], Path]) -> None:
    folder = task("ln")
    stem = f"{PREFIX}blocks.0.mlp.fc1.ln_tuning_layers"
    change_tensors(folder, lambda t: t.update({f"{stem}.weight": torch.ones(48), f"{stem}.bias": torch.ones(48)}))
    with pytest.raises(AdapterMismatchError, match="not a norm in a block"):
        fit(folder, backbone)


def test_the_last_norm_runs_at_every_depth(backbone: Backbone, task: Callable[[str], Path]) -> None:
    folder = task("ln")
    assert f"{PREFIX}norm.ln_tuning_layers.weight" in load_file(folder / "adapter_model.safetensors")
    fitted = check(read_checkpoint(folder), backbone.record, 2)
    assert list(fitted.ranks) == ["norm", *(f"blocks.{block}.norm{norm}" for block in (0, 1) for norm in (1, 2))]


@pytest.mark.parametrize("name", ["hra", "ia3", "ln", "vblora"])
def test_a_number_that_is_none_is_refused(task: Callable[[str], Path], name: str) -> None:
    folder = task(name)
    change_tensors(folder, spoilt)
    with pytest.raises(RefusedError, match="infinity"):
        read_checkpoint(folder)


@pytest.mark.parametrize("kind", sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING))
def test_every_method_that_peft_registers_is_served_or_refused_with_its_reason(kind: str) -> None:
    assert (kind in SUPPORTED) != (kind in REASONS)
    if kind in REASONS:
        with pytest.raises(UnservedAdapterError) as caught:
            supported_method({"peft_type": kind})
        assert REASONS[kind] in str(caught.value)
        assert "supported are LORA, ADALORA" in str(caught.value)
