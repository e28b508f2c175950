"""Every kind of timm VisionTransformer: its features, its tuning and its cut equal stock timm cut to the depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from support.oracle import TaskFolder, lowered, reference_logits

from serving.engine.engine import Engine
from sls.adapters.model import build_vit
from sls.adapters.task_folder import read_folder, write_folder
from sls.data.dataset import Dataset, Split
from sls.pipeline.retune import untrained
from sls.scoring.features import block_features
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.errors import InvalidSettingError, UnservedBackboneError
from store.weights.backbones import Backbone, encode, load_backbone, read_backbone
from store.weights.preprocessing import make_transform

SMALL = {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 32, "num_heads": 2}


@dataclass(frozen=True)
class Kind:
    """A timm architecture, what is changed to make it small, and how it pools tokens: (n, tokens, dim) -> (n, dim)."""

    architecture: str
    arguments: dict[str, object]
    pool: Callable[[torch.Tensor], torch.Tensor] | None


def first(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0]


def mean_of(prefix: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x[:, prefix:].mean(dim=1)


def largest_of(prefix: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x[:, prefix:].amax(dim=1)


def both_of(prefix: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: (x[:, prefix:].mean(dim=1) + x[:, prefix:].amax(dim=1)) / 2


VIT = "vit_tiny_patch16_224"
LEARNED = None  # a learned pooling works on normed tokens only
KINDS = {
    "ViT, 12 blocks": Kind(VIT, {"depth": 12}, first),
    "ViT-L, 24 blocks": Kind("vit_large_patch16_224", {"depth": 24}, first),
    "ViT-H, 32 blocks": Kind("vit_huge_patch14_224", {"depth": 32, "patch_size": 14, "img_size": 28}, first),
    "one block": Kind(VIT, {"depth": 1}, first),
    "DINOv2": Kind("vit_small_patch14_dinov2", {"patch_size": 14, "img_size": 42}, first),
    "DINOv2 with registers": Kind("vit_small_patch14_reg4_dinov2", {"patch_size": 14, "img_size": 28}, first),
    "CLIP": Kind("vit_base_patch16_clip_224", {}, first),
    "CLIP, quick GELU": Kind("vit_base_patch16_clip_quickgelu_224", {}, first),
    "DeiT, distilled": Kind("deit_tiny_distilled_patch16_224", {}, lambda x: (x[:, 0] + x[:, 1]) / 2),
    "DeiT III": Kind("deit3_small_patch16_224", {}, first),
    "SigLIP": Kind("vit_base_patch16_siglip_224", {}, LEARNED),
    "SigLIP, averaged": Kind("vit_base_patch16_siglip_gap_224", {}, mean_of(0)),
    "SO150M, registers and map": Kind("vit_so150m_patch16_reg4_map_256", {"mlp_ratio": 2}, LEARNED),
    "averaged, registers, fc_norm": Kind("vit_mediumd_patch16_reg4_gap_256", {}, mean_of(4)),
    "averaged, no class token": Kind(VIT, {"global_pool": "avg", "class_token": False}, mean_of(0)),
    "averaged beside a class token": Kind(VIT, {"global_pool": "avg"}, mean_of(1)),
    "averaged after the norm": Kind(VIT, {"global_pool": "avg", "fc_norm": False}, mean_of(1)),
    "averaged with the class token": Kind(VIT, {"global_pool": "avg", "pool_include_prefix": True}, mean_of(0)),
    "mean and maximum": Kind(VIT, {"global_pool": "avgmax"}, both_of(1)),
    "maximum": Kind(VIT, {"global_pool": "max", "class_token": False}, largest_of(0)),
    "patch representation pooling": Kind(VIT, {"global_pool": "prr"}, LEARNED),
    "class token after fc_norm": Kind(VIT, {"fc_norm": True}, first),
    "no position for the class token": Kind(VIT, {"no_embed_class": True}, first),
    "no positions, no last norm": Kind(VIT, {"pos_embed": "none", "final_norm": False}, first),
    "tall images, wide patches": Kind(VIT, {"img_size": [32, 24], "patch_size": [4, 12]}, first),
    "size left open": Kind(VIT, {"dynamic_img_size": True}, first),
    "size left open, no class token": Kind(
        VIT, {"dynamic_img_size": True, "global_pool": "avg", "class_token": False}, mean_of(0)
    ),
    "size left open, patches that do not fit": Kind(
        VIT, {"dynamic_img_size": True, "dynamic_img_pad": True, "img_size": 30}, first
    ),
    "size fixed, patches that do not fit": Kind(VIT, {"img_size": 30}, first),
}


def make(folder: Path, kind: Kind) -> Backbone:
    """Build it through timm with random weights, none of them near its start of 0, 1 or 1e-5, and load it by name."""
    arguments = {**SMALL, **kind.arguments}
    torch.manual_seed(0)
    model = timm.create_model(kind.architecture, num_classes=3, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    save_file(model.state_dict(), folder / "model.safetensors")
    return load_backbone(kind.architecture, weights=folder / "model.safetensors", arguments=arguments, label="any/vit")


@pytest.fixture(params=KINDS.values(), ids=list(KINDS), scope="module")
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module")
def backbone(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make(tmp_path_factory.mktemp("backbone"), kind)


def noise(count: int = 12) -> Split:
    random = np.random.default_rng(0)
    return Split(tuple(random.integers(0, 256, (count, 20, 30, 3), np.uint8)), np.arange(count) % 3)


def inputs(backbone: Backbone) -> torch.Tensor:
    return noise().inputs(range(12), make_transform(backbone.record.id.preprocessing))


def stock(kind: Kind, backbone: Backbone, depth: int) -> torch.nn.Module:
    """The slow twin: timm's own model of these weights, made anew and cut by timm's own method, without a head."""
    model = timm.create_model(kind.architecture, num_classes=0, **{**SMALL, **kind.arguments}, weight_init="skip")
    model.load_state_dict(dict(backbone.tensors))
    model.prune_intermediate_layers([depth - 1], prune_head=False)
    assert len(model.blocks) == depth
    return model.eval()


def half(backbone: Backbone) -> int:
    return (backbone.record.blocks + 1) // 2


@torch.inference_mode()
def test_read_from_its_file_it_shows_at_each_depth_what_stock_timm_cut_to_it_shows(kind, backbone):
    model = read_backbone(backbone.record, encode(backbone)).build()
    features = block_features(model, noise(), make_transform(backbone.record.id.preprocessing))
    assert features.served.shape == (backbone.record.blocks, 12, 32)
    for depth in {1, half(backbone), backbone.record.blocks}:
        expected = stock(kind, backbone, depth)(inputs(backbone))
        np.testing.assert_allclose(features.served[depth - 1], expected, rtol=1e-4, atol=1e-4)
    if kind.pool is LEARNED:
        assert np.array_equal(features.scored, features.served)
        return
    tokens = model.forward_intermediates(
        inputs(backbone), output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
    )
    for found, block in zip(features.scored, tokens, strict=True):
        patches, prefix = block if isinstance(block, tuple) else (block, block[:, :0])
        np.testing.assert_allclose(found, kind.pool(torch.cat([prefix, patches], dim=1)), rtol=1e-4, atol=1e-4)


def test_tuned_at_a_depth_written_and_read_it_answers_as_stock_peft_on_stock_timm_and_as_the_engine(backbone, tmp_path):
    depth, transform = half(backbone), make_transform(backbone.record.id.preprocessing)
    dataset = Dataset("noise", ("a", "b", "c"), noise(), noise(0), noise(3))
    config = TrainingConfig(epochs=1, batch=6, learning_rate=0.03, rank=2)
    start = replace(untrained(dataset, backbone, config), depth=depth)
    tuned = tune(dataset, backbone, start, config, transform=transform, stage="tune", progress=lambda _: None)
    write_folder(tmp_path, backbone, tuned, dataset.classes)
    model, made = read_folder(tmp_path, backbone, depth=depth), TaskFolder(tmp_path, depth)
    served = block_features(model.vit, noise(), transform).served[-1]
    expected = torch.stack(reference_logits(backbone, made, inputs(backbone)))
    untuned = build_vit(backbone, depth)(inputs(backbone)).detach()
    assert not np.allclose(served, untuned, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.head(torch.from_numpy(served)).detach(), expected, rtol=1e-4, atol=1e-4)
    answered = torch.stack(Engine(backbone).forward(inputs(backbone), [lowered(backbone, made)] * 12))
    torch.testing.assert_close(answered, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ViT, 12 blocks", "DeiT, distilled", "SigLIP"])
def test_a_head_is_added_where_one_is_asked_for_in_the_dtype_of_the_rest(tmp_path, name):
    backbone = make(tmp_path, KINDS[name])
    model = backbone.build(classes=5, dtype=torch.bfloat16)
    assert model(inputs(backbone).bfloat16()).shape == (12, 5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_no_images_have_no_features(tmp_path):
    backbone = make(tmp_path, KINDS["ViT, 12 blocks"])
    features = block_features(backbone.build(), noise(0), make_transform(backbone.record.id.preprocessing))
    assert features.scored.shape == features.served.shape == (12, 0, 32)


REFUSED = {
    "Swin V2": ("swinv2_tiny_window8_256", {}, "class SwinTransformerV2"),
    "PVT": ("pvt_v2_b0", {}, "class PyramidVisionTransformerV2"),
    "Twins": ("twins_pcpvt_small", {"depths": [1, 1, 1, 1]}, "class Twins"),
    "Swin, pooled otherwise": (
        "swin_tiny_patch4_window7_224",
        {"global_pool": "max", "depths": [1], "num_heads": [3]},
        "pooling 'max' of a Swin",
    ),
    "ConvNeXt": ("convnext_atto", {}, "class ConvNeXt"),
    "ResNet": ("resnet10t", {}, "class ResNet"),
    "EVA": ("eva02_tiny_patch14_224", {}, "class Eva"),
    "DINOv3": ("vit_small_patch16_dinov3", {}, "class Eva"),
    "BEiT": ("beit_base_patch16_224", {"depth": 1, "embed_dim": 48}, "class Beit"),
    "hybrid": ("vit_tiny_r_s16_p8_224", {}, "patch embedding HybridEmbed"),
    "NaFlexViT": ("naflexvit_base_patch16_gap", {"depth": 1, "embed_dim": 48, "num_heads": 3}, "class NaFlexVit"),
    "SAM": ("samvit_base_patch16", {"depth": 1, "embed_dim": 48}, "class VisionTransformerSAM"),
    "relative positions": ("vit_relpos_small_patch16_224", {"depth": 1}, "class VisionTransformerRelPos"),
    "CaiT": ("cait_xxs24_224", {"depth": 1}, "class Cait"),
    "post-norm": ("vit_base_patch16_rpn_224", {"depth": 1}, "block ResPostBlock"),
    "parallel blocks": ("vit_small_patch16_18x2_224", {"depth": 1}, "block ParallelThingsBlock"),
    "differential attention": ("vit_dlittle_patch16_reg1_gap_256", {"depth": 1}, "attention DiffAttention"),
    "gated mlp": ("vit_giant_patch14_dinov2", {"depth": 1, "embed_dim": 48, "num_heads": 3}, "mlp GluMlp"),
    "RMS norms": ("test_vit4", {}, "norm RmsNorm"),
    "no pooling": (VIT, {**SMALL, "global_pool": ""}, "pooling ''"),
    "grey images": (VIT, {**SMALL, "in_chans": 1}, "images of 1 channels"),
    "ragged patches": (
        VIT,
        {**SMALL, "img_size": 30, "dynamic_img_size": True},
        "image size .30, 30., which patches of",
    ),
}


@pytest.mark.parametrize(("architecture", "arguments", "part"), REFUSED.values(), ids=list(REFUSED))
def test_any_other_architecture_is_refused_by_name_with_what_is_served(architecture, arguments, part, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(UnservedBackboneError, match=f"'{architecture}' is not served .{part}.*ViT, DeiT, CLIP") as told:
        load_backbone(architecture, weights=tmp_path / "x.safetensors", arguments=arguments)
    assert "\n" not in str(told.value)


def test_a_pretrained_model_that_is_not_served_is_refused_before_its_weights_are_fetched():
    with pytest.raises(UnservedBackboneError, match="class SwinTransformerV2"):
        load_backbone("swinv2_tiny_window8_256")


@pytest.mark.parametrize("arguments", [{"num_heads": 5}, {"global_pool": "median"}, {"patch_size": 0}, {"depth": "x"}])
def test_arguments_that_timm_cannot_build_from_are_refused_in_one_line(arguments, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(InvalidSettingError, match=f"do not fit '{VIT}'") as told:
        load_backbone(VIT, weights=tmp_path / "x.safetensors", arguments={**SMALL, **arguments})
    assert "\n" not in str(told.value)
