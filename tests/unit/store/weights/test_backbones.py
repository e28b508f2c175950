from __future__ import annotations

import dataclasses
import json
import re

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.oracle import make_backbone

from store.errors import BackboneMismatchError, BackboneNotFoundError, FormatError, InvalidSettingError
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import (
    Backbone,
    check_backbone,
    encode,
    fingerprint,
    load_backbone,
    open_backbone,
    read_backbone,
)


@pytest.fixture(scope="module")
def packaged() -> Backbone:
    return load_backbone(DEFAULT_BACKBONE)


def test_the_packaged_backbone_is_a_twelve_block_vit_for_64_pixels_without_its_classifier(packaged):
    record = packaged.record
    assert (record.blocks, record.dim, record.parameters) == (12, 192, 5_388_480)
    assert (record.id.preprocessing.height, record.id.preprocessing.width) == (64, 64)
    assert not any(name.startswith("head") for name in packaged.tensors)
    assert len(record.modules) == 4 * 12


def test_the_model_that_is_built_is_frozen_and_computes_what_timm_computes_from_the_same_file(packaged):
    model = packaged.build()
    plain = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=0).eval()
    plain.load_state_dict({name: tensor.float() for name, tensor in packaged.tensors.items()})
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), plain(images))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in packaged.build(classes=5).parameters())


def test_models_built_of_one_backbone_share_no_memory(packaged):
    one, other = packaged.build(), packaged.build()
    one.blocks[0].attn.qkv.weight.zero_()
    assert other.blocks[0].attn.qkv.weight.any()


def test_a_stored_backbone_comes_back_as_it_was_and_is_checked(packaged, tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        store.add_backbone(packaged.record, encode(packaged))
        reopened = open_backbone(store, store.backbone(DEFAULT_BACKBONE))
    assert reopened.record.id == packaged.record.id
    assert all(torch.equal(tensor, packaged.tensors[name]) for name, tensor in reopened.tensors.items())


@pytest.mark.parametrize(
    ("name", "digest"), [("onetrunk/vit_tiny_64", "07e8ddf8903c"), ("onetrunk/vit_tiny_64.v2", "454c3913841f")]
)
def test_the_weights_of_a_packaged_name_never_change(name, digest):
    assert load_backbone(name).record.id.fingerprint.startswith(digest)


def flip_one_bit(backbone: Backbone) -> Backbone:
    tensors = {name: tensor.clone() for name, tensor in backbone.tensors.items()}
    tensors["norm.bias"].view(torch.int16)[7] ^= 1
    return Backbone(backbone.record, tensors)


def swap_two_tensors(backbone: Backbone) -> Backbone:
    tensors = dict(backbone.tensors)
    one, other = "blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight"
    tensors[one], tensors[other] = tensors[other], tensors[one]
    return Backbone(backbone.record, tensors)


def with_identity(backbone: Backbone, **changes: object) -> Backbone:
    identity = dataclasses.replace(backbone.record.id, **changes)
    return Backbone(dataclasses.replace(backbone.record, id=identity), backbone.tensors)


def with_other_mean(backbone: Backbone) -> Backbone:
    preprocessing = dataclasses.replace(backbone.record.id.preprocessing, mean=(0.5, 0.5, 0.5))
    return with_identity(backbone, preprocessing=preprocessing)


def with_other_size(backbone: Backbone) -> Backbone:
    return with_identity(backbone, preprocessing=dataclasses.replace(backbone.record.id.preprocessing, height=96))


def with_other_arguments(backbone: Backbone) -> Backbone:
    return with_identity(backbone, arguments={"img_size": 64, "patch_size": 8, "qk_norm": False})


@pytest.mark.parametrize(
    "change", [flip_one_bit, swap_two_tensors, with_other_mean, with_other_size, with_other_arguments]
)
def test_a_backbone_that_differs_in_anything_has_another_fingerprint_and_is_refused(packaged, change):
    assert check_backbone(packaged) is packaged
    with pytest.raises(BackboneMismatchError, match=r"fingerprint .* expected 454c3913841f: .* restore the original"):
        check_backbone(change(packaged))


def test_a_backbone_file_cut_short_or_of_another_model_is_refused(packaged, tmp_path):
    with pytest.raises(FormatError, match=f"weights of backbone {re.escape(DEFAULT_BACKBONE)} is cut short"):
        read_backbone(packaged.record, encode(packaged)[:-1])
    (tmp_path / "short.safetensors").write_bytes(encode(packaged)[:1000])
    with pytest.raises(FormatError, match="not a whole safetensors file"):
        load_backbone("vit_tiny_patch16_224", weights=tmp_path / "short.safetensors")
    (tmp_path / "small.safetensors").write_bytes(encode(packaged))
    with pytest.raises(FormatError, match="give the matching architecture and arguments"):
        load_backbone("vit_small_patch16_224", weights=tmp_path / "small.safetensors")


def test_a_timm_architecture_with_a_local_file_drops_the_classifier_and_keeps_the_arguments(tmp_path):
    arguments = {"img_size": 32, "depth": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **arguments)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    backbone = load_backbone("vit_tiny_patch16_224", weights=tmp_path / "model.safetensors", arguments=arguments)
    assert backbone.record.id.arguments == arguments
    assert (backbone.record.id.preprocessing.height, backbone.record.id.preprocessing.width) == (32, 32)
    assert backbone.tensors.keys() == load_file(tmp_path / "model.safetensors").keys() - {"head.weight", "head.bias"}


def test_a_hub_layout_on_disk_loads_through_the_same_path_as_a_hub_name(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0)
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": {"img_size": 32, "depth": 2},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0], "input_size": [3, 32, 32]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    backbone = load_backbone(f"local-dir:{tmp_path}", label="mine/vit")
    assert backbone.record.blocks == 2
    assert backbone.record.id.preprocessing.mean == (0.1, 0.2, 0.3)
    assert torch.equal(backbone.build()(torch.ones(1, 3, 32, 32)), model.eval()(torch.ones(1, 3, 32, 32)))


def test_a_backbone_left_at_its_source_is_found_there_again_and_pinned(tmp_path):
    source = make_backbone(tmp_path / "source")
    record = dataclasses.replace(source.record, name="onetrunk/vit_tiny_64", weights=None, source="package")
    with Store.open(tmp_path / "store", create=True) as store:
        recorded = store.add_backbone(record, None)
        with pytest.raises(BackboneMismatchError):
            open_backbone(store, recorded)
        packaged = load_backbone(DEFAULT_BACKBONE)
        pinned_record = store.add_backbone(dataclasses.replace(packaged.record, weights=None), None)
        assert open_backbone(store, pinned_record).record.id == packaged.record.id


def test_names_and_arguments_that_make_no_model_are_told_in_one_line(tmp_path):
    with pytest.raises(BackboneNotFoundError, match="does not exist"):
        load_backbone("vit_tiny_patch16_224", weights=tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(BackboneNotFoundError, match="is not a timm architecture"):
        load_backbone("vit_enormous", weights=tmp_path / "x.safetensors")
    with pytest.raises(InvalidSettingError, match="colour"):
        load_backbone("vit_tiny_patch16_224", weights=tmp_path / "x.safetensors", arguments={"colour": 3})


def test_the_fingerprint_does_not_depend_on_the_order_of_the_tensors(packaged):
    identity = packaged.record.id
    backwards = dict(reversed(packaged.tensors.items()))
    assert fingerprint(identity.architecture, identity.arguments, identity.preprocessing, backwards) == (
        identity.fingerprint
    )
