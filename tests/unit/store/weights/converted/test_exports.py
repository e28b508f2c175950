"""Versions for those who leave: timm models, folders of transformers and PEFT, and ONNX files give the same logits."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import transformers
from peft import LoraConfig, PeftModel
from PIL import Image
from support.custom_tasks import make_custom_task
from support.oracle import MODULES, TaskFolder, make_backbone, make_peft_task
from support.peft_tasks import CONFIGS
from support.transformers_tasks import make_base, paths, tune
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from onetrunk.workflows import add_backbone, publish_folder
from serving.engine.engine import Engine
from sls.adapters.model import suppress_peft_warnings
from store.errors import ConflictError, InvalidSettingError, UnservedAdapterError, UnservedBackboneError
from store.records.backbone import Preprocessing
from store.registry.store import Store, Version
from store.weights.backbones import Backbone, open_backbone
from store.weights.base_models.image_processor import preprocessing_of
from store.weights.converted.leaving import export_merged, export_onnx
from store.weights.converted.to_transformers import image_processor
from store.weights.converted.transformers_export import export_transformers
from store.weights.load_task import load_task
from store.weights.preprocessing import make_transform

WITHIN = 1e-4
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
DEPTH = 3
OF_PEFT = ("lora", "dora", "lora, biases of its own", "vera", "ia3", "beft", "ln", "glora", "oft", "boft", "road")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("store") / "store", create=True) as opened:
        add_backbone(opened, backbone)
        yield opened


def published(store: Store, backbone: Backbone, folder: Path, name: str) -> Version:
    """Publish a random task of three of four blocks."""
    if name in CONFIGS:
        targets = [f"blocks.{block}.{module}" for block in range(DEPTH) for module in MODULES]
        made = make_peft_task(backbone, TaskFolder(folder, DEPTH), CONFIGS[name](targets, 3), classes=5)
    else:
        made = make_custom_task(backbone, folder, name, depth=DEPTH, rank=4, classes=5, seed=0)
    return store.publish("flowers", made.folder, backbone=backbone.record.name, depth=DEPTH)


def served(store: Store, version: Version) -> torch.Tensor:
    backbone = open_backbone(store, store.backbone(version.manifest.backbone))
    weights = load_task(store, version.manifest, backbone=backbone.tensors)
    return torch.stack(Engine(backbone).forward(IMAGES, [weights] * len(IMAGES)))


@torch.inference_mode()
def in_transformers(folder: Path) -> torch.Tensor:
    config = json.loads((folder / "base" / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0])
    with suppress_peft_warnings():
        base, notes = model.from_pretrained(folder / "base", output_loading_info=True)
        assert not notes["missing_keys"]
        assert not notes["unexpected_keys"]
        adapted = PeftModel.from_pretrained(base, folder).eval()
    return adapted(pixel_values=IMAGES).logits


@torch.inference_mode()
def in_timm(folder: Path) -> torch.Tensor:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(IMAGES)


@pytest.mark.parametrize("name", [*OF_PEFT, "ssf", "bitfit"])
def test_a_task_of_timm_leaves_as_a_timm_model_and_for_transformers(
    store: Store, backbone: Backbone, tmp_path: Path, name: str
) -> None:
    version = published(store, backbone, tmp_path / "task", name)
    ref, expected = f"flowers:{version.number}", served(store, version)
    merged = export_merged(store, ref, tmp_path / "merged")
    assert (in_timm(merged) - expected).abs().max() <= WITHIN
    assert (in_transformers(export_transformers(store, ref, tmp_path / "hf")) - expected).abs().max() <= WITHIN
    config = json.loads((merged / "config.json").read_text())
    assert config["model_args"]["depth"] == DEPTH
    assert config["label_names"] == store.read(version.manifest.head.labels).decode().splitlines()


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "dinov2_with_registers"])
def test_a_task_of_transformers_comes_back_as_it_was(store: Store, tmp_path: Path, family: str) -> None:
    model = make_base(tmp_path / family, family)
    targets = paths(family, ("attention.q_proj", "attention.v_proj", "mlp.fc1"))
    tuned = tune(tmp_path / "task", model, LoraConfig(r=3, lora_alpha=7, target_modules=targets))
    version = publish_folder(store, "roses", tuned.folder, backbone=str(tmp_path / family))
    ref, expected = f"roses:{version.number}", tuned.logits(IMAGES)
    folder = export_transformers(store, ref, tmp_path / "hf")
    assert (in_transformers(folder) - expected).abs().max() <= WITHIN
    again = publish_folder(store, "roses", folder, backbone=str(folder / "base"))
    assert (served(store, again) - expected).abs().max() <= WITHIN
    if family in ("vit", "deit"):
        assert (in_timm(export_merged(store, ref, tmp_path / "merged")) - expected).abs().max() <= WITHIN
    else:
        with pytest.raises(UnservedAdapterError, match="which no pooling of timm gives"):
            export_merged(store, ref, tmp_path / "merged")


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_the_image_processor_of_a_preprocessing_gives_its_pixels_and_the_same_preprocessing(crop_mode: str) -> None:
    half = (0.5, 0.4, 0.3)
    preprocessing = Preprocessing(32, 32, "bicubic", half, half, 0.8, crop_mode)  # resized to 40: an even rest
    settings = image_processor(preprocessing)
    assert preprocessing_of(settings, "here") == preprocessing
    pixels = torch.randint(0, 256, (48, 60, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    theirs = BitImageProcessorPil(**settings)(images=image, return_tensors="pt").pixel_values[0]
    assert (make_transform(preprocessing)(image) - theirs).abs().max() < 1e-4


def test_what_others_cannot_load_is_refused_in_one_line(store: Store, backbone: Backbone, tmp_path: Path) -> None:
    version = published(store, backbone, tmp_path / "task", "adaptformer")
    ref = f"flowers:{version.number}"
    for write in (export_merged, export_transformers):
        with pytest.raises(UnservedAdapterError, match="bottlenecks beside attention and the MLP"):
            write(store, ref, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConflictError, match="not an empty folder"):
        export_merged(store, ref, tmp_path / "full")
    averaging = make_backbone(tmp_path / "avg", global_pool="avg", fc_norm=False)
    with Store.open(tmp_path / "other", create=True) as other:
        add_backbone(other, averaging)
        pooled = published(other, averaging, tmp_path / "pooled", "lora")
        with pytest.raises(UnservedBackboneError, match="pooling 'avg'"):
            export_transformers(other, f"flowers:{pooled.number}", tmp_path / "hf")
        merged = export_merged(other, f"flowers:{pooled.number}", tmp_path / "merged")
        assert (in_timm(merged) - served(other, pooled)).abs().max() <= WITHIN


def test_an_onnx_file_answers_as_the_task_does_for_any_number_of_images(
    store: Store, backbone: Backbone, tmp_path: Path
) -> None:
    import onnx
    import onnxruntime

    version = published(store, backbone, tmp_path / "task", "dora")
    ref = f"flowers:{version.number}"
    file = export_onnx(store, ref, tmp_path / "flowers.onnx")
    facts = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    assert json.loads(facts["classes"]) == store.read(version.manifest.head.labels).decode().splitlines()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for images in (IMAGES, IMAGES[:1], torch.cat([IMAGES, IMAGES])):
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        expected = served(store, version)[torch.arange(len(images)) % 2]
        assert (torch.from_numpy(logits) - expected).abs().max() <= WITHIN
    with pytest.raises(ConflictError, match="choose a new file"):
        export_onnx(store, ref, file)


def test_without_the_packages_for_onnx_the_way_to_get_them_is_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InvalidSettingError, match=r"pip install 'onetrunk\[onnx\]'"):
        export_onnx(store, "flowers", tmp_path / "flowers.onnx")
