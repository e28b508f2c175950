from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.destinations import answers
from support.toy_backbone import BLOCKS, CLASSES, Toy, publish, set_option, toy_model, tune

from store.adapters.checkpoint import read_checkpoint
from store.adapters.lineage import with_lineage
from store.errors import FormatError, UnservedAdapterError
from store.records.evidence import Lineage, PruneIndex
from store.records.manifest import MANIFEST_FORMAT, Card
from store.registry.store import Store

QKV = ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
OPTIONS = {
    "full paths": {},
    "one rank each": {"rank_pattern": {"blocks.0.attn.qkv": 2, "fc1": 7}, "alpha_pattern": {"fc2": 32}},
    "rank-stabilised": {"use_rslora": True, "r": 6, "lora_alpha": 3},
    "a suffix": {"target_modules": ["qkv"]},
    "suffixes and layers": {
        "target_modules": ["qkv", "fc1"], "layers_to_transform": [0, 2], "layers_pattern": "blocks",
    },
    "a regular expression": {"target_modules": r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"},
    "all but some": {"target_modules": ["fc1", "fc2"], "exclude_modules": ["blocks.3.mlp.fc1"], "lora_dropout": 0.5},
    "another start": {"init_lora_weights": "gaussian", "lora_alpha": 0.5},
    "a rank above the width": {"target_modules": QKV, "r": 64},
}  # fmt: skip
FILES = ("adapter_config.json", "adapter_model.safetensors", "head.safetensors", "classes.txt")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_folder_of_stock_peft_comes_back_byte_for_byte_and_answers_the_same(
    store: Store, toy: Toy, tmp_path: Path, images: torch.Tensor, options: str
) -> None:
    folder = tune(tmp_path / "peft", depth=2, **OPTIONS[options])
    version = publish(store, folder, depth=BLOCKS)
    out = store.export("flowers", tmp_path / "out")
    assert all((out / name).read_bytes() == (folder / name).read_bytes() for name in FILES)
    assert torch.equal(answers(out, toy, BLOCKS, images), answers(folder, toy, BLOCKS, images))
    assert store.publish("flowers", out).digest == version.digest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folder_of_half_precision_comes_back_byte_for_byte(store: Store, tmp_path: Path, dtype: torch.dtype) -> None:
    model = get_peft_model(toy_model().to(dtype), LoraConfig(target_modules=QKV), autocast_adapter_dtype=False)
    model.save_pretrained(tmp_path / "peft")
    head = {"weight": torch.ones(CLASSES, 48, dtype=dtype), "bias": torch.zeros(CLASSES, dtype=dtype)}
    save_file(head, tmp_path / "peft" / "head.safetensors")
    (tmp_path / "peft" / "classes.txt").write_text("rose\ntulip\npoppy\n")
    publish(store, tmp_path / "peft")
    out = store.export("flowers", tmp_path / "out")
    assert all((out / name).read_bytes() == (tmp_path / "peft" / name).read_bytes() for name in FILES)


def test_what_else_peft_leaves_in_the_folder_is_not_published(store: Store, folder: Path, tmp_path: Path) -> None:
    assert (folder / "README.md").exists()
    publish(store, folder)
    assert not (store.export("flowers", tmp_path / "out") / "README.md").exists()


def train_with_the_head(folder: Path) -> PeftModel:
    """Leave what PEFT saves where it was told to train timm's head too."""
    torch.manual_seed(3)
    vit = toy_model()
    vit.reset_classifier(CLASSES)
    model = get_peft_model(vit, LoraConfig(target_modules=QKV, modules_to_save=["head"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    (folder / "classes.txt").write_text("rose\ntulip\npoppy\n")
    return model.eval()


def test_a_head_within_the_adapter_answers_as_the_model_did(
    store: Store, toy: Toy, tmp_path: Path, images: torch.Tensor
) -> None:
    model = train_with_the_head(tmp_path / "peft")
    publish(store, tmp_path / "peft", depth=BLOCKS)
    out = store.export("flowers", tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(answers(out, toy, BLOCKS, images), model(images))


def test_a_head_that_was_split_off_by_hand_answers_as_the_model_did(
    store: Store, toy: Toy, tmp_path: Path, images: torch.Tensor
) -> None:
    model = train_with_the_head(tmp_path / "peft")
    weights = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(weights)
    head = {name: tensors.pop(f"base_model.model.head.{name}") for name in ("weight", "bias")}
    save_file(head, tmp_path / "peft" / "head.safetensors")
    save_file(tensors, weights)
    set_option(tmp_path / "peft", modules_to_save=None)
    publish(store, tmp_path / "peft", depth=BLOCKS)
    out = store.export("flowers", tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(answers(out, toy, BLOCKS, images), model(images))


def test_other_modules_within_the_adapter_are_refused(store: Store, folder: Path) -> None:
    set_option(folder, modules_to_save=["norm"])
    with pytest.raises(UnservedAdapterError, match="tune LORA without it"):
        publish(store, folder)


def test_a_folder_without_its_head_is_refused_by_its_name(store: Store, folder: Path) -> None:
    (folder / "head.safetensors").unlink()
    with pytest.raises(FormatError, match=r"has no head\.safetensors"):
        publish(store, folder)


def card(toy: Toy, **fields: object) -> dict[str, object]:
    made = Card(toy.record.id.fingerprint, PruneIndex(2, BLOCKS, "given"), lineage=Lineage("x", "y", 1, 1))
    return {**json.loads(made.to_json()), **fields}


def test_a_card_of_the_first_format_is_given_back_as_it_was(
    store: Store, folder: Path, toy: Toy, tmp_path: Path
) -> None:
    old = Card(toy.record.id.fingerprint, PruneIndex(2, BLOCKS, "given"), lineage=Lineage("x", "y", 1, 1), format=1)
    (folder / "onetrunk.json").write_bytes(old.to_json())
    version = store.publish("flowers", folder)
    out = store.export("flowers", tmp_path / "out")
    assert (out / "onetrunk.json").read_bytes() == old.to_json()
    assert store.publish("flowers", out).digest == version.digest


def test_a_lineage_that_the_first_format_cannot_say_raises_the_format(folder: Path, toy: Toy) -> None:
    (folder / "onetrunk.json").write_text(json.dumps(card(toy, format=1)))
    made = with_lineage(read_checkpoint(folder), toy.record, depth=2, parent=None, code_commit="c0ffee1")
    assert (made.card.format, made.card.lineage.code_commit) == (MANIFEST_FORMAT, "c0ffee1")


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 0},
        {"format": -1},
        {"format": True},
        {"format": MANIFEST_FORMAT + 1},
        {"format": 1, "lineage": {"data": "x", "code_commit": "c0ffee"}},
    ],
    ids=str,
)
def test_a_card_that_its_format_cannot_say_is_refused(
    store: Store, folder: Path, toy: Toy, fields: dict[str, object]
) -> None:
    (folder / "onetrunk.json").write_text(json.dumps(card(toy, **fields)))
    with pytest.raises(FormatError):
        store.publish("flowers", folder)
