"""Folders as training loops leave them: wrappers around the model, the adapter's name, and the head somewhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.oracle import make_backbone, make_task
from support.toy_backbone import BLOCKS, DIM, make_toy, set_option, tune

from onetrunk.workflows import add_backbone, publish_folder
from store.adapters.checkpoint import check, read_checkpoint
from store.errors import (
    AdapterMismatchError,
    BackboneNotFoundError,
    FormatError,
    HeadMismatchError,
    RefusedError,
    UnservedAdapterError,
)
from store.registry.store import Store
from store.weights.backbones import load_backbone

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
RENAMINGS = {
    "compiled within": ("base_model.model.", "base_model.model._orig_mod."),
    "compiled around": ("base_model.model.", "_orig_mod.base_model.model."),
    "distributed": ("base_model.model.", "module.base_model.model."),
    "a part of a larger model": ("base_model.model.", "base_model.model.backbone."),
    "no PEFT around it": ("base_model.model.", ""),
    "all of it": ("base_model.model.", "module.base_model.model._orig_mod.backbone."),
}


def renamed(folder: Path, old: str, new: str) -> None:
    tensors = {name.replace(old, new): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("name", RENAMINGS)
def test_a_constant_prefix_is_taken_away_and_said(tmp_path: Path, name: str) -> None:
    folder, toy = tune(tmp_path, depth=2), make_toy()
    before = load_file(folder / WEIGHTS)
    renamed(folder, *RENAMINGS[name])
    checkpoint = read_checkpoint(folder)
    check(checkpoint, toy.record, 2)
    assert len(checkpoint.changes) == 1
    assert "took the prefix" in checkpoint.changes[0]
    (tmp_path / "again.safetensors").write_bytes(checkpoint.weights)
    after = load_file(tmp_path / "again.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_clean_folder_keeps_its_bytes(tmp_path: Path) -> None:
    folder = tune(tmp_path, depth=2)
    checkpoint = read_checkpoint(folder)
    assert (checkpoint.weights, checkpoint.config) == ((folder / WEIGHTS).read_bytes(), (folder / CONFIG).read_bytes())
    assert checkpoint.changes == ()


def test_full_paths_and_expressions_of_the_config_lose_the_prefix_too(tmp_path: Path) -> None:
    for targets in (["backbone.blocks.0.attn.qkv", "backbone.blocks.1.attn.qkv"], r"backbone\.blocks\.[01]\.attn\.qkv"):
        folder = tmp_path / type(targets).__name__
        tune(folder, depth=2, target_modules=["blocks.0.attn.qkv", "blocks.1.attn.qkv"], rank_pattern={"qkv": 2})
        renamed(folder, "base_model.model.", "base_model.model.backbone.")
        set_option(folder, target_modules=targets, rank_pattern={"backbone.blocks.0.attn.qkv": 2, "qkv": 2})
        fitted = check(read_checkpoint(folder), make_toy().record, 2)
        assert fitted.ranks == {"blocks.0.attn.qkv": 2, "blocks.1.attn.qkv": 2}


def test_an_expression_that_names_more_than_the_file_has_is_still_refused(tmp_path: Path) -> None:
    folder = tune(tmp_path, depth=2, target_modules=["blocks.1.attn.qkv"])
    renamed(folder, "base_model.model.", "base_model.model.net.")
    set_option(folder, target_modules=r"net\..*qkv")
    with pytest.raises(AdapterMismatchError, match=r"'blocks\.0\.attn\.qkv', .* no tensors for it"):
        check(read_checkpoint(folder), make_toy().record, 2)


def test_two_prefixes_are_refused(tmp_path: Path) -> None:
    folder = tune(tmp_path, depth=2)
    renamed(folder, "base_model.model.blocks.1.", "base_model.model.other.blocks.1.")
    with pytest.raises(AdapterMismatchError, match="stand under"):
        read_checkpoint(folder)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_a_leftover_name_of_the_adapter_is_taken_away(tmp_path: Path, options: dict[str, object]) -> None:
    folder = tune(tmp_path, depth=2, **options)
    before = load_file(folder / WEIGHTS)
    tensors = {}
    for name, tensor in before.items():
        stem, _, part = name.partition(".lora_")
        first, _, rest = part.partition(".")
        tensors[f"{stem}.lora_{first}.flowers{'.' + rest if rest else '.weight'}"] = tensor
    save_file(tensors, folder / WEIGHTS)
    checkpoint = read_checkpoint(folder)
    check(checkpoint, make_toy().record, 2)
    assert checkpoint.adapter_infos.keys() == before.keys()
    assert "'flowers'" in checkpoint.changes[0]


def test_a_head_in_modules_to_save_becomes_the_head(tmp_path: Path) -> None:
    folder = tune(tmp_path, depth=2)
    head = load_file(folder / "head.safetensors")
    (folder / "head.safetensors").unlink()
    saved = "base_model.model.head.modules_to_save.default"
    old = {"base_model.model.head.original_module.weight": torch.ones(3, DIM)}
    save_file(
        {**load_file(folder / WEIGHTS), **old, **{f"{saved}.{part}": head[part] for part in head}}, folder / WEIGHTS
    )
    set_option(folder, modules_to_save=["head"])
    checkpoint = read_checkpoint(folder)
    check(checkpoint, make_toy().record, 2)
    assert checkpoint.settings["modules_to_save"] is None
    (tmp_path / "again.safetensors").write_bytes(checkpoint.head)
    assert torch.equal(load_file(tmp_path / "again.safetensors")["weight"], head["weight"])


@pytest.mark.parametrize("file", ["head.safetensors", "model.safetensors"])
def test_a_head_in_the_state_dict_of_a_timm_model_with_its_label_names(tmp_path: Path, file: str) -> None:
    folder = tune(tmp_path, depth=2)
    head = load_file(folder / "head.safetensors")
    (folder / "head.safetensors").unlink()
    save_file({"head.weight": head["weight"], "norm.weight": torch.ones(DIM)}, folder / file)
    (folder / "classes.txt").unlink()
    (folder / "config.json").write_text(json.dumps({"architecture": "vit", "label_names": ["a", "b", "c"]}))
    checkpoint = read_checkpoint(folder)
    check(checkpoint, make_toy().record, 2)
    assert checkpoint.classes == ("a", "b", "c")
    assert checkpoint.head_infos["bias"].shape == (3,)
    assert f"the state dict in {file}" in checkpoint.changes[0]


def test_two_heads_are_refused(tmp_path: Path) -> None:
    folder = tune(tmp_path, depth=2)
    save_file({**load_file(folder / WEIGHTS), "base_model.model.head.weight": torch.ones(3, DIM)}, folder / WEIGHTS)
    with pytest.raises(HeadMismatchError, match="keep one of the two"):
        read_checkpoint(folder)


def test_options_that_change_nothing_at_load_are_accepted(tmp_path: Path) -> None:
    folder = tune(tmp_path, depth=2)
    set_option(folder, fan_in_fan_out=True, init_lora_weights="eva", eva_config={"rho": 2.0})
    check(read_checkpoint(folder), make_toy().record, 2)
    set_option(folder, init_lora_weights="pissa_niter_16")
    with pytest.raises(UnservedAdapterError, match="path_initial_model_for_weight_conversion"):
        check(read_checkpoint(folder), make_toy().record, 2)


def test_adapters_above_the_depth_are_dropped_on_request(tmp_path: Path) -> None:
    folder, told = tune(tmp_path / "task", depth=BLOCKS), []
    toy = make_toy()
    with Store.open(tmp_path / "store", create=True) as store:
        store.add_backbone(toy.record, toy.weights)
        with pytest.raises(AdapterMismatchError, match="`drop_above_depth=True`"):
            publish_folder(store, "flowers", folder, backbone="toy/vit", depth=2)
        version = publish_folder(
            store, "flowers", folder, backbone="toy/vit", depth=2, drop_above_depth=True, tell=told.append
        )
        assert {path.split(".")[1] for path in version.manifest.adapter.modules} == {"0", "1"}
        assert told == ["dropped the adapters of blocks 3, 4"]


def test_publishing_adds_the_packaged_backbone_or_that_of_a_folder_and_nothing_when_refused(tmp_path: Path) -> None:
    packaged, told = load_backbone("onetrunk/vit_tiny_64"), []
    task = make_task(packaged, tmp_path / "task", depth=1, classes=2, modules=("attn.qkv",)).folder
    with Store.open(tmp_path / "store", create=True) as store:
        with pytest.raises(RefusedError):
            publish_folder(store, "flowers", tune(tmp_path / "other", depth=2), backbone="onetrunk/vit_tiny_64")
        assert store.backbones() == []
        publish_folder(store, "flowers", task, backbone="onetrunk/vit_tiny_64", depth=1, tell=told.append)
        assert [record.name for record in store.backbones()] == ["onetrunk/vit_tiny_64"]
        assert told == ["added backbone onetrunk/vit_tiny_64 to the store"]
        with pytest.raises(BackboneNotFoundError, match="no backbone 'onetrunk/vit_tiny'"):
            publish_folder(store, "flowers", task, backbone="onetrunk/vit_tiny", depth=1)
        other = make_backbone(tmp_path / "other-backbone")
        add_backbone(store, other)
        with pytest.raises(FormatError):
            publish_folder(store, "flowers", tmp_path / "other-backbone", backbone="random/vit")
