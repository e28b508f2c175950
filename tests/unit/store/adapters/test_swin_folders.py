"""What is refused of a folder that was tuned on a Swin, and what is taken of it, however the model was wrapped."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LNTuningConfig, LoraConfig
from safetensors.torch import load_file, save_file
from support.oracle import lowered
from support.swin_tasks import make_swin, save_task, write_head

from store.accounting.flops import block_flops
from store.adapters.checkpoint import check, drop_above, read_checkpoint
from store.adapters.tuned_folder import read_tuned
from store.errors import AdapterMismatchError, HeadMismatchError, UnservedBackboneError
from store.records.width import WidthIndex
from store.weights.trunk import trunk_of

SHORT = ("qkv", "fc1", "fc2", "reduction")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_swin(tmp_path_factory.mktemp("swin"))


def saved(backbone, folder, *targets: str, depth: int = 6):
    config = LoraConfig(r=2, target_modules=list(targets))
    return save_task(backbone, folder, config, depth=depth)


def test_a_head_has_as_many_features_as_there_are_at_its_depth(backbone, tmp_path):
    made = saved(backbone, tmp_path, "layers.1.blocks.0.attn.qkv", depth=3)
    assert check(read_checkpoint(made.folder), backbone.record, 3).ranks == {"layers.1.blocks.0.attn.qkv": 2}
    write_head(backbone, tmp_path, depth=6)
    with pytest.raises(HeadMismatchError, match="takes 64 features, random/swin gives 32 at depth 3"):
        check(read_checkpoint(made.folder), backbone.record, 3)


def test_a_depth_beyond_the_blocks_and_a_module_above_the_depth_are_refused(backbone, tmp_path):
    made = saved(backbone, tmp_path, "layers.2.downsample.reduction")
    checkpoint = read_checkpoint(made.folder)
    with pytest.raises(AdapterMismatchError, match=r"depth 7 is outside 1\.\.6"):
        check(checkpoint, backbone.record, 7)
    with pytest.raises(AdapterMismatchError, match=r"'layers\.2\.downsample\.reduction' is in block 6, above depth 5"):
        check(checkpoint, backbone.record, 5)


def test_the_last_norm_is_refused_before_the_last_stage(backbone, tmp_path):
    names = r"norm|layers\.\d+\.blocks\.\d+\.norm[12]"
    made = save_task(backbone, tmp_path, LNTuningConfig(target_modules=names), depth=6)
    check(read_checkpoint(made.folder), backbone.record, 6)
    write_head(backbone, tmp_path, depth=5)
    kept = drop_above(read_checkpoint(made.folder), 5, backbone.record.geometry)
    assert kept.changes == ("dropped the adapters of blocks 6",)
    with pytest.raises(AdapterMismatchError, match="before the last stage, which alone has it: publish at depth 6"):
        check(kept, backbone.record, 5)


def test_short_names_reach_all_stages_but_not_the_stem(backbone, tmp_path):
    made = saved(backbone, tmp_path, *SHORT)
    assert len(check(read_checkpoint(made.folder), backbone.record, 6).ranks) == 6 * 3 + 2
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "target_modules": [*SHORT, "proj"]}))
    with pytest.raises(AdapterMismatchError, match=r"'patch_embed.proj' too.*'layers.0.blocks.0.attn.proj'"):
        check(read_checkpoint(made.folder), backbone.record, 6)


def test_prefixes_of_a_training_loop_are_taken_away(backbone, tmp_path):
    made = saved(backbone, tmp_path, "layers.1.blocks.2.mlp.fc1", "layers.1.downsample.reduction", depth=5)
    before = lowered(backbone, made).forms
    file = tmp_path / "adapter_model.safetensors"
    wrapped = {name.replace("layers.", "trunk.layers.", 1): tensor for name, tensor in load_file(file).items()}
    save_file(wrapped, file)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    names = [f"trunk.{name}" for name in config["target_modules"]]
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "target_modules": names}))
    tuned, checkpoint = read_tuned(tmp_path), read_checkpoint(tmp_path)
    assert sorted(tuned.settings["target_modules"]) == sorted(before_names(backbone, before))
    assert set(check(checkpoint, backbone.record, 5).ranks) == set(before_names(backbone, before))


def before_names(backbone, forms) -> list[str]:
    return [backbone.record.geometry.timm(path) for path in forms.deltas]


def test_a_width_index_of_a_swin_is_refused_by_name(backbone):
    width = WidthIndex.of([(3, 15)] * 6, heads=2, units=64)
    with pytest.raises(UnservedBackboneError, match="is a Swin, whose stages differ in heads and units"):
        backbone.narrow(width)


@pytest.mark.parametrize("arguments", [{}, {"img_size": 44, "window_size": 4}])
def test_the_operations_of_each_block_are_those_that_torch_counts(tmp_path, arguments):
    from torch.utils.flop_counter import FlopCounterMode

    backbone = make_swin(tmp_path, **arguments)
    trunk, counted = trunk_of(backbone.build()), []
    x = trunk.stem(torch.zeros(1, 3, *[backbone.record.id.preprocessing.height] * 2))
    for block in trunk.blocks:
        with FlopCounterMode(display=False) as counter:
            x = block(x)
        counted.append(counter.get_total_flops())
    assert block_flops(backbone.record) == tuple(counted)


def test_the_parameters_above_a_depth_are_nearly_those_that_timm_counts(backbone):
    sizes = [
        sum(p.numel() for p in backbone.build().get_submodule(path).parameters())
        for path in backbone.record.geometry.paths
    ]
    assert backbone.record.parameters_above(6) == 0
    assert backbone.record.parameters_above(2) == pytest.approx(sum(sizes[2:]), rel=0.15)
