from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.oracle import make_backbone

from sls.adapters.methods import METHODS
from sls.adapters.model import TunedModel
from sls.adapters.task_folder import read_folder, write_folder
from store.adapters.checkpoint import CONFIG, WEIGHTS
from store.errors import AdapterMismatchError, DataError, FormatError, UnservedAdapterError

OPTIONS = {
    "lora": {"layer_replication": [[0, 2]]},
    "dora": {"init_lora_weights": "pissa"},
    "ia3": {"modules_to_save": ["blocks.0.norm1"]},
    "vera": {"an_option_of_tomorrow": "somewhere.bin"},
    "ln": {"modules_to_save": ["norm"]},
}


def written(folder: Path, method: str) -> Path:
    """Leave a fresh adapter of blocks 1 and 2 in the folder, and its backbone's weights beside it."""
    backbone = make_backbone(folder / "backbone")
    start = TunedModel(2, 8, {}, torch.zeros(3, backbone.record.dim), torch.zeros(3), method)
    adapter = {k: v.detach() for k, v in METHODS[method].wrap(backbone, start, torch.float32).collect().items()}
    write_folder(folder / "task", backbone, replace(start, adapter=adapter), ("a", "b", "c"))
    return folder / "task"


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_lacks_is_named_and_not_made_up(tmp_path, method):
    folder = written(tmp_path, method)
    tensors = load_file(folder / WEIGHTS)
    gone = sorted(tensors)[-1]
    save_file({key: value for key, value in tensors.items() if key != gone}, folder / WEIGHTS)
    with pytest.raises((FormatError, AdapterMismatchError), match=gone.replace(".", r"\.")):
        read_folder(folder, make_backbone(tmp_path / "backbone"), depth=2)


def test_a_number_that_the_dtype_does_not_hold_is_refused_and_named(tmp_path):
    backbone = make_backbone(tmp_path / "backbone")
    start = TunedModel(1, 8, {}, torch.full((3, backbone.record.dim), 7e4), torch.zeros(3), "ln")
    adapter = {k: v.detach() for k, v in METHODS["ln"].wrap(backbone, start, torch.float32).collect().items()}
    with pytest.raises(DataError, match="tensor 'weight' reaches 70000, which float16 does not hold"):
        write_folder(tmp_path, backbone, replace(start, adapter=adapter), ("a", "b", "c"), dtype=torch.float16)


@pytest.mark.parametrize("method", OPTIONS)
def test_an_option_that_may_name_other_files_is_refused(tmp_path, method):
    folder = written(tmp_path, method)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **OPTIONS[method]}))
    with pytest.raises(UnservedAdapterError, match=next(iter(OPTIONS[method]))):
        read_folder(folder, make_backbone(tmp_path / "backbone"), depth=2)


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "convpass", None, 3])
def test_a_type_that_is_none_of_ours_is_refused(tmp_path, kind):
    folder = written(tmp_path, "lora")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "peft_type": kind}))
    with pytest.raises(UnservedAdapterError, match="peft_type"):
        read_folder(folder, make_backbone(tmp_path / "backbone"), depth=2)


def test_modules_are_listed_by_full_path_from_the_first_block_up(tmp_path):
    config = json.loads((written(tmp_path, "repadapter") / CONFIG).read_text())
    assert config["target_modules"] == [f"blocks.{b}.{m}" for b in (0, 1) for m in ("attn.qkv", "mlp.fc1")]
    assert (config["lora_bias"], config["r"], config["lora_alpha"]) == (True, 8, 8)
