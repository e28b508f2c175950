from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.custom_tasks import random_tuned
from support.oracle import make_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from sls.adapters.methods import METHODS
from sls.adapters.model import TunedModel
from store.weights.backbones import Backbone

PRESETS = ["adaptformer", "houlsby", "adapter+"]
every_preset = pytest.mark.parametrize("preset", PRESETS)
KINDS = {
    "class token": {},
    "registers and layer scale": {"reg_tokens": 4, "init_values": 0.1},
    "average pooling without a class token": {"global_pool": "avg", "class_token": False},
}
ORDER = {"adaptformer": (1, 2, 0), "houlsby": (0, 2, 1), "adapter+": (0, 2, 1)}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"))


def adapter_at(tuned: TunedModel, path: str, act: str, x: Tensor) -> Tensor:
    """By hand: scale * (act(x D^T + d) U^T + u), zero where the place has no adapter."""
    if f"{path}.up.bias" not in tuned.adapter:
        return torch.zeros(())
    down, d, up, u = (tuned.adapter[f"{path}.{name}"] for name in ("down.weight", "down.bias", "up.weight", "up.bias"))
    scale = tuned.adapter.get(f"{path}.scale", torch.ones(()))
    return scale * (getattr(F, act)(x @ down.T + d) @ up.T + u)


def block_by_hand(preset: str, block: nn.Module, tuned: TunedModel, path: str, x: Tensor) -> Tensor:
    """The three papers' blocks, each written out."""
    attn, mlp = f"{path}.attn", f"{path}.mlp"
    if preset == "houlsby":
        f = block.ls1(block.attn(block.norm1(x)))
        x = x + f + adapter_at(tuned, attn, "gelu", f)
        f = block.ls2(block.mlp(block.norm2(x)))
        return x + f + adapter_at(tuned, mlp, "gelu", f)
    x = x + block.ls1(block.attn(block.norm1(x)))
    if preset == "adaptformer":
        return x + block.ls2(block.mlp(block.norm2(x))) + adapter_at(tuned, mlp, "relu", x)
    x = x + block.ls2(block.mlp(block.norm2(x)))
    return x + adapter_at(tuned, mlp, "gelu", x)


@every_preset
@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
@torch.inference_mode()
def test_it_stands_in_the_block_where_its_paper_puts_it(tmp_path: Path, preset: str, arguments: dict[str, object]):
    backbone = make_backbone(tmp_path, **arguments)
    tuned, images = random_tuned(backbone, preset, from_block=2), torch.randn(2, 3, 32, 32)
    vit = backbone.build()
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    for index, block in enumerate(vit.blocks[:3]):
        x = block_by_hand(preset, block, tuned, f"blocks.{index}", x)
    model = METHODS[preset].wrap(backbone, tuned, torch.float32).vit.eval()
    torch.testing.assert_close(model(images), vit.forward_head(vit.norm(x)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("preset", "parameters"), [("adaptformer", 156_768), ("houlsby", 313_536), ("adapter+", 165_984)]
)
def test_it_has_as_many_parameters_as_its_paper_counts_for_a_vit_b_of_twelve_blocks(backbone, preset, parameters):
    d, h, vectors = 768, 8, {"adaptformer": 1, "houlsby": 1, "adapter+": 2}[preset]
    modules = 2 if preset == "houlsby" else 1
    assert parameters == 12 * modules * (2 * d * h + h + vectors * d)
    vit = METHODS[preset].wrap(backbone, TunedModel(4, h, {}, *(torch.zeros(2),) * 2, preset), torch.float32).vit
    trained = sum(p.numel() for p in vit.parameters() if p.requires_grad)
    assert trained == 4 * modules * (2 * 48 * h + h + vectors * 48)


def test_adaptformers_scale_is_a_tenth_of_the_recipes_and_is_not_trained(backbone):
    fresh = METHODS["adaptformer"].wrap(
        backbone, TunedModel(1, 8, {}, *(torch.zeros(2),) * 2, "adaptformer", 1, 0.5), torch.float32
    )
    assert fresh.collect()["blocks.0.mlp.scale"] == pytest.approx(0.05)
    assert "scale" not in " ".join(name for name, p in fresh.vit.named_parameters() if p.requires_grad)


def test_adapter_plus_learns_a_scale_for_each_channel_from_the_recipes(backbone):
    fresh = METHODS["adapter+"].wrap(
        backbone, TunedModel(1, 8, {}, *(torch.zeros(2),) * 2, "adapter+", 1, 0.5), torch.float32
    )
    assert torch.equal(fresh.collect()["blocks.0.mlp.scale"], torch.full((48,), 0.5))
    assert sum(name.endswith("scale") for name, p in fresh.vit.named_parameters() if p.requires_grad) == 1


@pytest.mark.parametrize("preset", ["houlsby", "adapter+"])
def test_fresh_weights_are_normal_and_cut_off_at_two_standard_deviations(backbone, preset):
    start = TunedModel(4, 32, {}, *(torch.zeros(2),) * 2, preset)
    fresh = METHODS[preset].wrap(backbone, start, torch.float32).collect()
    weights = torch.cat([value.flatten() for key, value in fresh.items() if key.endswith("weight")])
    assert weights.abs().max() <= 0.02
    assert weights.std() == pytest.approx(0.0088, rel=0.05)  # of a standard normal cut off at 2: 0.88
    assert all(not value.any() for key, value in fresh.items() if key.endswith("bias"))


@pytest.mark.parametrize(("preset", "random"), [("adaptformer", True), ("houlsby", False), ("adapter+", True)])
def test_only_in_training_parts_of_it_are_dropped_out_where_its_authors_do(backbone, preset, random):
    tuned, images = random_tuned(backbone, preset), torch.randn(8, 3, 32, 32)
    vit = METHODS[preset].wrap(backbone, tuned, torch.float32).vit
    with torch.inference_mode():
        assert torch.equal(vit.train()(images), vit(images)) is not random
        assert torch.equal(vit.eval()(images), vit(images))
