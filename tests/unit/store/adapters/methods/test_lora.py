from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from support.toy_backbone import BLOCKS, DIM, Toy, change_tensors, fit, set_option, tune

from store.adapters.methods.supported import matches, resolve_pattern
from store.errors import (
    AdapterMismatchError,
    UnservedAdapterError,
)

UNSERVED = {
    "bias": "all", "modules_to_save": ["norm"],
    "layer_replication": [[0, 2]], "trainable_token_indices": [1], "init_lora_weights": "pissa",
    "alora_invocation_tokens": [1], "use_qalora": True, "megatron_config": {"a": 1}, "loftq_config": {"bits": 4},
    "corda_config": {"a": 1}, "lora_ga_config": {"a": 1}, "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 3}, "kasa_config": {"beta": 1}, "monteclora_config": {"a": 1}, "velora_config": {"a": 1},
    "target_parameters": ["x"], "ensure_weight_tying": True, "an_option_of_tomorrow": True,
}  # fmt: skip
MODULES = [f"blocks.{b}.{kind}" for b in (0, 1, 10) for kind in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
QKV = "base_model.model.blocks.0.attn.qkv"


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"rank_pattern": {"blocks.0.attn.qkv": 2, "fc1": 7}, "alpha_pattern": {"fc2": 32}},
        {"target_modules": r"blocks\.\d+\.attn\.qkv"},
        {"target_modules": ["qkv"], "layers_to_transform": [0, 1], "layers_pattern": "blocks"},
        {"target_modules": ["fc1", "fc2"], "exclude_modules": ["blocks.3.mlp.fc1"], "lora_dropout": 0.5},
        {"init_lora_weights": "gaussian", "lora_alpha": 0.5},
        {"lora_bias": True},
    ],
    ids=str,
)
def test_every_option_with_an_exact_form_is_served(tmp_path: Path, toy: Toy, options: dict[str, object]) -> None:
    fit(tune(tmp_path, depth=2, **options), toy, BLOCKS)


@pytest.mark.parametrize("option", UNSERVED)
def test_an_option_without_an_exact_form_is_refused_by_name(folder: Path, toy: Toy, option: str) -> None:
    set_option(folder, **{option: UNSERVED[option]})
    with pytest.raises(UnservedAdapterError, match=option):
        fit(folder, toy)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_an_initialisation_that_may_change_the_backbone_is_refused(folder: Path, toy: Toy, init: str) -> None:
    set_option(folder, init_lora_weights=init)
    with pytest.raises(UnservedAdapterError, match=init):
        fit(folder, toy)


@pytest.mark.parametrize("kind", ["FOURIERFT", "HIRA", "PREFIX_TUNING", "lora", "", None, 3, ["LORA"]])
def test_a_peft_type_that_is_not_served_is_refused_with_the_list(folder: Path, toy: Toy, kind: object) -> None:
    set_option(folder, peft_type=kind)
    with pytest.raises(UnservedAdapterError, match="supported are LORA"):
        fit(folder, toy)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["qkv", "proj"]},
        {"target_modules": ["attn.qkv", "blocks.1.mlp.fc1"]},
        {"target_modules": ["v"]},
        {"target_modules": r".*\.(qkv|fc1)"},
        {"target_modules": r"blocks\.1\..*"},
        {"target_modules": ["qkv"], "exclude_modules": ["blocks.1.attn.qkv"]},
        {"target_modules": ["qkv"], "exclude_modules": r"blocks\.10\..*"},
        {"target_modules": ["qkv"], "layers_to_transform": [1, 10], "layers_pattern": "blocks"},
        {"target_modules": ["qkv"], "layers_to_transform": 1, "layers_pattern": ["h", "blocks"]},
        {"target_modules": ["qkv", "blocks.0.mlp.fc1"], "layers_to_transform": [1], "layers_pattern": "blocks"},
        {"target_modules": ["qkv"], "layers_to_transform": [1]},
        {"target_modules": ["qkv"], "layers_to_transform": []},
    ],
    ids=str,
)
def test_modules_are_matched_as_peft_matches_them(config: dict[str, object]) -> None:
    theirs = SimpleNamespace(target_parameters=None, **config)
    expected = [bool(check_target_module_exists(theirs, module)) for module in MODULES]
    excluded = [type(check_target_module_exists(theirs, m)).__name__ == "_ExcludedModule" for m in MODULES]
    assert [matches(config, m) for m in MODULES] == [e and not x for e, x in zip(expected, excluded, strict=True)]


@pytest.mark.parametrize(
    "pattern", [{"qkv": 2, "attn.qkv": 3}, {"blocks.1.attn.qkv": 5}, {r"blocks\.\d+\.mlp.*": 7}, {}]
)
def test_patterns_are_resolved_as_peft_resolves_them(pattern: dict[str, int]) -> None:
    ours = [resolve_pattern({"rank_pattern": pattern}, "rank_pattern", module, 4) for module in MODULES]
    assert ours == [pattern.get(get_pattern_key(pattern.keys(), module), 4) for module in MODULES]


def test_the_pattern_that_also_hits_the_patch_embedding_is_refused(tmp_path: Path, toy: Toy) -> None:
    with pytest.raises(AdapterMismatchError, match=r"patch_embed\.proj.*full path"):
        fit(tune(tmp_path, depth=2, target_modules=["qkv", "proj"]), toy, BLOCKS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{QKV}.lora_B.weight"), "factors of shapes"),
        (lambda t: [t.pop(f"{QKV}.lora_{side}.weight") for side in "AB"], "has no tensors for it"),
        (lambda t: t.update({f"{QKV}.lora_A.weight": torch.ones(4, DIM + 1)}), "factors of shapes"),
        (lambda t: t.update({f"{QKV}.lora_B.weight": torch.ones(3 * DIM, 5)}), "factors of shapes"),
        (lambda t: t.update({f"{QKV}.lora_A.weight": torch.ones(4, DIM, dtype=torch.int32)}), "not a factor of LoRA"),
        (lambda t: t.update({f"{QKV}.lora_magnitude_vector": torch.ones(3)}), "factors of shapes"),
        (lambda t: t.update({f"{QKV}.lora_C.weight": torch.ones(3)}), "not a factor of LoRA"),
        (lambda t: t.update({"blocks.0.attn.qkv.lora_A.weight": torch.ones(4, DIM)}), "stand under"),
        (lambda t: t.update({"base_model.model.x.lora_A.weight": torch.ones(4, DIM)}), "not a linear map in a block"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    folder: Path, toy: Toy, change: Callable[[object], object], message: str
) -> None:
    change_tensors(folder, change)
    with pytest.raises(AdapterMismatchError, match=message):
        fit(folder, toy)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop(f"{QKV}.lora_B.bias"),
        lambda t: t.update({f"{QKV}.lora_B.bias": torch.ones(3 * DIM + 1)}),
        lambda t: t.update({f"{QKV}.lora_B.bias": torch.ones(3 * DIM, 1)}),
    ],
)
def test_a_bias_that_does_not_fit_is_refused(tmp_path: Path, toy: Toy, change: Callable[[object], object]) -> None:
    folder = tune(tmp_path, depth=2, lora_bias=True)
    change_tensors(folder, change)
    with pytest.raises(AdapterMismatchError, match=r"blocks\.0\.attn\.qkv.*B\.bias"):
        fit(folder, toy)


def test_a_bias_that_the_config_does_not_speak_of_is_refused(folder: Path, toy: Toy) -> None:
    change_tensors(folder, lambda t: t.update({f"{QKV}.lora_B.bias": torch.ones(3 * DIM)}))
    with pytest.raises(AdapterMismatchError, match=r"B\.bias"):
        fit(folder, toy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 8}, "factors of shapes"),
        ({"r": 0}, "expected r >= 1"),
        ({"r": True}, "expected r >= 1"),
        ({"r": "4"}, "expected r >= 1"),
        ({"lora_alpha": None}, "a number"),
        ({"lora_alpha": float("inf")}, "a number"),
        ({"rank_pattern": {"qkv": 8}}, "factors of shapes"),
        ({"target_modules": ["attn.qkv"]}, "not in the config's target_modules"),
        ({"target_modules": None}, "not in the config's target_modules"),
        ({"exclude_modules": ["attn.qkv", "qkv"]}, "not in the config's target_modules"),
    ],
)
def test_a_config_that_its_tensors_contradict_is_refused(
    folder: Path, toy: Toy, options: dict[str, object], message: str
) -> None:
    set_option(folder, **options)
    with pytest.raises(AdapterMismatchError, match=message):
        fit(folder, toy)


@pytest.mark.parametrize("options", [{"target_modules": "("}, {"rank_pattern": {"(": 4}}, {"alpha_pattern": [1]}])
def test_patterns_that_are_none_are_refused(folder: Path, toy: Toy, options: dict[str, object]) -> None:
    set_option(folder, **options)
    with pytest.raises(UnservedAdapterError, match=next(iter(options))):
        fit(folder, toy)
