from __future__ import annotations

import json

import pytest
import torch
from support.custom_tasks import random_tuned
from support.oracle import make_backbone
from torch import nn

from sls.adapters.convpass import METHOD, Convpass
from sls.adapters.model import TunedModel, linear
from sls.adapters.task_folder import read_folder, write_folder
from store.adapters.checkpoint import CONFIG
from store.errors import AdapterMismatchError

KINDS = {
    "class token": {},
    "registers and layer scale": {"reg_tokens": 4, "init_values": 0.1},
    "average pooling without a class token": {"global_pool": "avg", "class_token": False},
    "an oblong grid of patch 4": {"img_size": (16, 32), "patch_size": 4},
    "pre-norm": {"pre_norm": True},
}


def by_the_authors(module: Convpass, x: torch.Tensor, prefix: int) -> torch.Tensor:
    """The slow twin: each prefix token is an image of one pixel, the patches are an image of their grid."""

    def act(v: torch.Tensor) -> torch.Tensor:
        return v * torch.sigmoid(1.702 * v)

    hidden = act(module.down(x))
    images = [hidden[:, i : i + 1].transpose(1, 2)[..., None] for i in range(prefix)]
    images.append(hidden[:, prefix:].transpose(1, 2).reshape(len(x), -1, *module.grid))
    hidden = torch.cat([module.conv(image).flatten(2).transpose(1, 2) for image in images], dim=1)
    return module.scale * module.up(act(hidden))


@pytest.mark.parametrize(("grid", "prefix", "dim"), [((4, 4), 1, 48), ((3, 7), 5, 24), ((2, 2), 0, 16)])
@torch.no_grad()
def test_patches_are_convolved_over_their_grid_and_prefix_tokens_by_themselves(grid, prefix, dim):
    torch.manual_seed(0)
    module, x = Convpass(dim, 8, grid, 0.7).eval(), torch.randn(2, prefix + grid[0] * grid[1], dim)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    torch.testing.assert_close(module(x), by_the_authors(module, x, prefix), atol=1e-4, rtol=1e-4)


def test_two_modules_a_block_have_as_many_parameters_as_the_paper_counts():
    assert 2 * sum(p.numel() for p in Convpass(768, 8, (14, 14), 1.0).parameters()) == 27_296


@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
@torch.inference_mode()
def test_it_stands_beside_attention_and_the_mlp_on_what_the_norms_give(tmp_path, arguments):
    backbone = make_backbone(tmp_path, **arguments)
    tuned, images = (
        random_tuned(backbone, "convpass", from_block=2),
        torch.randn(2, 3, *backbone.build().patch_embed.img_size),
    )
    model = METHOD.wrap(backbone, tuned, torch.float32).vit.eval()
    vit = backbone.build()
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    for index, block in enumerate(vit.blocks[:3]):
        h = block.norm1(x)
        x = x + block.ls1(block.attn(h)) + beside(tuned, f"blocks.{index}.attn", vit, h)
        h = block.norm2(x)
        x = x + block.ls2(block.mlp(h)) + beside(tuned, f"blocks.{index}.mlp", vit, h)
    torch.testing.assert_close(model(images), vit.forward_head(vit.norm(x)), atol=1e-4, rtol=0)


def beside(tuned: TunedModel, path: str, vit: nn.Module, h: torch.Tensor) -> torch.Tensor | float:
    if f"{path}.scale" not in tuned.adapter:
        return 0.0
    module = Convpass(vit.embed_dim, 8, vit.patch_embed.grid_size, 1.0).eval()
    module.load_state_dict({name: tuned.adapter[f"{path}.{name}"] for name in module.state_dict()})
    return by_the_authors(module, h, vit.num_prefix_tokens)


@pytest.fixture
def written(tmp_path):
    backbone = make_backbone(tmp_path / "backbone")
    tuned = random_tuned(backbone, "convpass", from_block=2)
    write_folder(tmp_path / "task", backbone, tuned, ("a", "b", "c"))
    return backbone, tuned, tmp_path / "task"


@torch.inference_mode()
def test_a_folder_reads_back_with_the_same_logits_also_at_a_lesser_depth(written):
    backbone, tuned, folder = written
    images = torch.randn(2, 3, 32, 32)
    for depth in (2, 3):
        vit = METHOD.wrap(backbone, tuned, torch.float32).vit.eval()
        vit.blocks = vit.blocks[:depth]
        model = read_folder(folder, backbone, depth=depth)
        assert torch.equal(model.head(model.vit(images)), linear(tuned.weight, tuned.bias)(vit(images)))


@pytest.mark.parametrize(
    "change",
    [
        {"r": 0},
        {"r": "8"},
        {"r": 4},
        {"target_modules": None},
        {"target_modules": ["blocks.1.attn"]},
        {"target_modules": ["blocks.1.attn", "blocks.1.mlp", "head"]},
        {"target_modules": ["blocks.0.attn", "blocks.0.mlp"]},
    ],
    ids=str,
)
def test_a_config_that_its_tensors_contradict_is_refused(written, change):
    backbone, _, folder = written
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(AdapterMismatchError):
        read_folder(folder, backbone, depth=3)
