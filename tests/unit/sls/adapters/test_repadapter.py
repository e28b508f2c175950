from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from support.oracle import TaskFolder, lowered, make_backbone, make_task, reference_logits
from torch import nn

from serving.engine.engine import Engine
from sls.adapters.model import Tuned, linear
from sls.adapters.repadapter import RepAdapter, wrap
from sls.adapters.task_folder import write_folder
from store.adapters.checkpoint import check, read_checkpoint
from store.errors import InvalidSettingError
from store.weights.backbones import Backbone

CLASSES = ("a", "b", "c")


def random_task(backbone: Backbone, *, depth: int = 3, rank: int = 8, scale: float = 0.5) -> Tuned:
    """Every tensor random, biases too."""
    torch.manual_seed(depth)
    start = Tuned(depth, rank, {}, torch.randn(3, backbone.record.dim), torch.randn(3), "repadapter", 1, scale)
    fresh = wrap(backbone, start, torch.float32).collect()
    adapter = {key: value if key.endswith("scale") else torch.randn_like(value) / 4 for key, value in fresh.items()}
    return replace(start, adapter=adapter)


@torch.inference_mode()
def logits_of(backbone: Backbone, tuned: Tuned, images: torch.Tensor) -> torch.Tensor:
    return linear(tuned.weight, tuned.bias)(wrap(backbone, tuned, torch.float32).vit.eval()(images))


def made(folder: Path, backbone: Backbone, tuned: Tuned) -> TaskFolder:
    write_folder(folder, backbone, tuned, CLASSES)
    return TaskFolder(folder, tuned.depth)


def test_an_adapter_is_the_two_grouped_convolutions_of_its_authors():
    adapter = RepAdapter(48, 8, 0.3).eval()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    down, up = nn.Conv1d(48, 8, 1), nn.Conv1d(8, 48, 1, groups=2)
    with torch.no_grad():
        down.weight.copy_(adapter.down.weight[..., None])
        down.bias.copy_(adapter.down.bias)
        up.weight.copy_(adapter.up[..., None])
        up.bias.copy_(adapter.up_bias)
        x = torch.randn(2, 17, 48)
        theirs = x + 0.3 * up(down(x.transpose(1, 2))).transpose(1, 2)
        torch.testing.assert_close(adapter(x), theirs, atol=1e-5, rtol=0)


def test_two_adapters_a_block_have_as_many_parameters_as_the_paper_counts():
    d, h, g = 768, 8, 2
    assert 2 * sum(p.numel() for p in RepAdapter(d, h, 1.0).parameters()) == 2 * (d * h + h + d * h // g + d) == 19_984


def test_values_are_dropped_out_in_training_alone():
    adapter, x = RepAdapter(48, 8, 1.0), torch.randn(2, 5, 48)
    nn.init.normal_(adapter.up)
    assert not torch.equal(adapter(x), adapter(x))
    assert torch.equal(adapter.eval()(x), adapter(x))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"qkv_bias": False, "proj_bias": False}, {"init_values": 0.1, "reg_tokens": 4, "qk_norm": True}],
    ids=str,
)
@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_the_folder_is_a_lora_of_stock_peft_with_the_same_logits(tmp_path, arguments, scale):
    backbone = make_backbone(tmp_path / "backbone", **arguments)
    tuned, images = random_task(backbone, scale=scale), torch.randn(4, 3, 32, 32)
    task = made(tmp_path / "task", backbone, tuned)
    expected = logits_of(backbone, tuned, images)
    torch.testing.assert_close(torch.stack(reference_logits(backbone, task, images)), expected, atol=1e-4, rtol=0)
    fitted = check(read_checkpoint(task.folder), backbone.record, tuned.depth)
    assert fitted.method == "lora"
    assert set(fitted.ranks.values()) == {8}
    assert len(fitted.ranks) == 2 * tuned.depth


def test_the_engine_serves_it_beside_plain_lora(tmp_path):
    backbone = make_backbone(tmp_path / "backbone")
    tuned, images = random_task(backbone), torch.randn(4, 3, 32, 32)
    rep = made(tmp_path / "rep", backbone, tuned)
    lora = make_task(backbone, tmp_path / "lora", depth=4, classes=5)
    mixed = Engine(backbone).forward(images, [lowered(backbone, task) for task in (rep, lora, rep, lora)])
    for row, expected in zip((0, 2), logits_of(backbone, tuned, images[[0, 2]]), strict=True):
        torch.testing.assert_close(mixed[row], expected, atol=1e-4, rtol=0)
    for row, expected in zip((1, 3), reference_logits(backbone, lora, images[[1, 3]]), strict=True):
        torch.testing.assert_close(mixed[row], expected, atol=1e-4, rtol=0)


def test_stock_peft_merges_it_into_the_backbone(tmp_path):
    backbone = make_backbone(tmp_path / "backbone")
    tuned, images = random_task(backbone, depth=4), torch.randn(2, 3, 32, 32)
    task = made(tmp_path / "task", backbone, tuned)
    merged = PeftModel.from_pretrained(backbone.build(), str(task.folder)).merge_and_unload()
    found = linear(tuned.weight, tuned.bias)(merged.eval()(images))
    torch.testing.assert_close(found, logits_of(backbone, tuned, images), atol=1e-4, rtol=0)


def test_a_hidden_width_that_does_not_part_in_two_is_refused():
    with pytest.raises(InvalidSettingError, match=r"rank 7.*even rank"):
        RepAdapter(48, 7, 1.0)
