from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load, save_file
from support.destinations import answers, empty_store
from support.narrow_twin import narrow_twin, random_width
from support.oracle import TaskFolder, make_peft_task, reference_logits
from support.peft_tasks import CONFIGS
from support.token_twin import grid_of, random_tokens
from support.toy_backbone import Toy, relabel, tune

from onetrunk.rendering.model_card import add_command, export_hub, yaml_string
from store.errors import ConflictError
from store.records.backbone import hub_id, timm_name
from store.records.evidence import Accuracy, Certificate, Lineage, PruneIndex
from store.records.manifest import Card
from store.records.measures import ClassCounts
from store.registry.store import Store, Version
from store.weights.backbones import Backbone
from store.weights.preprocessing import make_transform

INDEX = PruneIndex(2, 4, "tsne-silhouette", 0.3, 0.12, (None, 0.2, 0.3, 0.4), 0, 400)
CERTIFICATE = Certificate(Accuracy(45, 50), Accuracy(44, 50))


def publish(store: Store, folder: Path, *, data: str = "flowers-102") -> Version:
    """Publish the folder with a card of all that a card can say."""
    lineage = Lineage(data, "ab" * 32, 100, 50, {"epochs": 3, "lr": 0.001}, {"peft": "0.21.2"})
    card = Card(store.backbones()[0].id.fingerprint, INDEX, CERTIFICATE, lineage)
    (folder / "onetrunk.json").write_bytes(card.to_json())
    return store.publish("garden/flowers", folder)


def front_matter(folder: Path) -> dict[str, object]:
    return yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])


def run_the_code_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Execute the card's Python in its folder, on an image that was put there."""
    Image.new("RGB", (40, 36), (200, 30, 90)).save(folder / "image.jpg")
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.S)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def expected_logits(folder: Path, original: Path, toy: Toy) -> torch.Tensor:
    with Image.open(folder / "image.jpg") as image:
        pixels = make_transform(toy.record.id.preprocessing)(image.convert("RGB"))
    return answers(original, toy, 2, pixels[None])


def test_the_code_of_the_card_runs_and_answers_as_the_original_folder(
    store: Store, folder: Path, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, folder)
    out = export_hub(store, "garden/flowers", tmp_path / "out")
    weights = store.backbone("toy/vit").weights
    named = re.search(r"blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}", (out / "README.md").read_text("utf-8"))
    (out / "backbone.safetensors").write_bytes((store.root / named[0]).read_bytes())
    names = run_the_code_of(out, monkeypatch)
    assert weights.sha256 in named[0]
    assert torch.equal(names["logits"], expected_logits(out, folder, toy))
    assert names["classes"] == ["rose", "tulip", "poppy"]


def test_the_code_for_a_backbone_that_timm_finds_runs_too(
    toy: Toy, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "timm"
    local.mkdir()
    pretrained = {"num_classes": 0, "input_size": [3, 32, 32], "first_conv": "patch_embed.proj", "classifier": "head"}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "pretrained_cfg": pretrained,
        "model_args": toy.record.id.arguments,
    }
    (local / "config.json").write_text(json.dumps(config))
    (local / "model.safetensors").write_bytes(toy.weights)
    store = empty_store(tmp_path / "other")
    store.add_backbone(replace(toy.record, source=f"local-dir:{local}"), None)
    publish(store, folder)
    out = export_hub(store, "garden/flowers", tmp_path / "out")
    names = run_the_code_of(out, monkeypatch)
    assert "backbone.safetensors" not in (out / "README.md").read_text("utf-8")
    assert torch.equal(names["logits"], expected_logits(out, folder, toy))


@pytest.mark.parametrize("prefix", [True, None])
def test_the_code_of_a_task_with_a_width_and_tokens_takes_the_others_out(
    store: Store, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: bool | None
) -> None:
    backbone, width = Backbone(toy.record, load(toy.weights)), random_width(3, 2, heads=3, units=192, prefix=prefix)
    twin, tokens = narrow_twin(backbone, width), None if prefix else random_tokens(1, 2, grid_of(backbone))
    made = make_peft_task(twin, TaskFolder(tmp_path / "made", 2), CONFIGS["lora"](["blocks.0.mlp.fc1"], 2), classes=3)
    card = Card(toy.record.id.fingerprint, PruneIndex(2, 4, "taylor", width=width, tokens=tokens))
    (made.folder / "onetrunk.json").write_bytes(card.to_json())
    store.publish("garden/flowers", made.folder)
    out = export_hub(store, "garden/flowers", tmp_path / "out")
    (out / "backbone.safetensors").write_bytes(toy.weights)
    names = run_the_code_of(out, monkeypatch)
    with Image.open(out / "image.jpg") as image:
        pixels = make_transform(toy.record.id.preprocessing)(image.convert("RGB"))
    torch.testing.assert_close(names["logits"][0], reference_logits(twin, made, pixels[None], tokens=tokens)[0])


def test_the_folder_is_published_again_as_the_same_version(store: Store, folder: Path, tmp_path: Path) -> None:
    version = publish(store, folder)
    out = export_hub(store, "garden/flowers", tmp_path / "out")
    assert store.publish("garden/flowers", out) == version


def test_the_folder_gives_the_same_digest_in_another_store(
    store: Store, folder: Path, toy: Toy, tmp_path: Path
) -> None:
    version = publish(store, folder)
    out = export_hub(store, f"garden/flowers@sha256:{version.digest}", tmp_path / "out")
    other = empty_store(tmp_path / "other")
    other.add_backbone(toy.record, toy.weights)
    assert other.publish("garden/flowers", out).digest == version.digest


def test_the_hub_reads_the_card(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder)
    data = ModelCard.load(export_hub(store, "garden/flowers", tmp_path / "out") / "README.md").data
    (result,) = data.eval_results
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("peft", "image-classification", "garden/flowers")
    assert (result.dataset_name, result.dataset_split, result.metric_type, result.metric_value) == (
        "flowers-102", "test", "accuracy", 0.88,
    )  # fmt: skip
    assert {"onetrunk", "timm", "lora"} <= set(data.tags)


def test_the_body_tells_depth_accuracy_classes_and_digests(store: Store, folder: Path, tmp_path: Path) -> None:
    version = publish(store, folder)
    text = (export_hub(store, "garden/flowers", tmp_path / "out") / "README.md").read_text("utf-8")
    assert "first 2 of 4 blocks" in text
    assert "88.0% (44 of 50; 95 % interval 76.2% to 94.4%)" in text
    assert "rose, tulip, poppy" in text
    assert "onetrunk backbone add vit_tiny_patch16_224 --weights backbone.safetensors --arg depth=4" in text
    assert all(digest in text for digest in (version.digest, version.manifest.backbone))
    assert all(blob.sha256 in text for blob in version.manifest.blobs)


def test_a_task_that_was_never_tuned_at_full_depth_has_no_accuracy_there(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    counts = ClassCounts((20, 20, 10), (22, 18, 10), (18, 16, 10))
    card = Card(store.backbones()[0].id.fingerprint, INDEX, Certificate(None, Accuracy(44, 50), class_counts=counts))
    (folder / "onetrunk.json").write_bytes(card.to_json())
    store.publish("flowers", folder)
    text = (export_hub(store, "flowers", tmp_path / "out") / "README.md").read_text("utf-8")
    assert "the same at all" not in text
    assert f"| macro F1, held out | {100 * counts.macro_f1:.1f}% |" in text


def test_a_task_without_evidence_has_a_card_that_claims_none(store: Store, folder: Path, tmp_path: Path) -> None:
    store.publish("flowers", folder, backbone="toy/vit", depth=2)
    out = export_hub(store, "flowers", tmp_path / "out")
    assert "model-index" not in front_matter(out)
    assert "accuracy" not in (out / "README.md").read_text("utf-8")


def test_many_classes_are_named_in_part(store: Store, tmp_path: Path) -> None:
    folder = tune(tmp_path / "many", depth=2)
    save_file({"weight": torch.randn(500, 48), "bias": torch.zeros(500)}, folder / "head.safetensors")
    relabel(folder, *(f"class {number}" for number in range(500)))
    store.publish("flowers", folder, backbone="toy/vit", depth=2)
    text = (export_hub(store, "flowers", tmp_path / "out") / "README.md").read_text("utf-8")
    assert "class 19, …" in text
    assert "class 20" not in text


ODD = ['a"b', "a\\b", "a: b", "---\nlicense: mit", "#", "ü – 花", "\u2028x", "😀", "{{ 7 * 7 }}", "<script>"]


@pytest.mark.parametrize("text", ODD)
def test_no_name_of_a_data_set_breaks_the_front_matter(store: Store, folder: Path, tmp_path: Path, text: str) -> None:
    publish(store, folder, data=text)
    out = export_hub(store, "garden/flowers", tmp_path / "out")
    (model,) = front_matter(out)["model-index"]
    assert model["results"][0]["dataset"]["name"] == text
    assert "license" not in front_matter(out)


@pytest.mark.parametrize("text", [*ODD, "\ud800", "\x00", "\x7f\x85", ""])
def test_a_quoted_string_is_read_back(text: str) -> None:
    assert yaml.safe_load(yaml_string(text)) == text


def test_markup_in_a_class_name_is_shown_as_it_is(store: Store, folder: Path, tmp_path: Path) -> None:
    relabel(folder, "a|b", "[x](http://y)", "<img src=x>")
    publish(store, folder)
    text = (export_hub(store, "garden/flowers", tmp_path / "out") / "README.md").read_text("utf-8")
    assert r"a\|b, \[x\]\(http://y\), \<img src=x\>" in text


def test_equal_versions_give_equal_cards(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder)
    cards = [(export_hub(store, "garden/flowers", tmp_path / name) / "README.md").read_bytes() for name in "ab"]
    assert cards[0] == cards[1]


def test_a_folder_in_use_is_refused(store: Store, folder: Path) -> None:
    publish(store, folder)
    with pytest.raises(ConflictError, match="not an empty folder"):
        export_hub(store, "garden/flowers", folder)
    assert not (folder / "README.md").read_text("utf-8").startswith("---\nlibrary_name: peft\npipeline_tag")


LOCAL = "onetrunk backbone add vit_tiny_patch16_224 --weights my.safetensors --arg img_size=32 --as mine/vit"
SOURCES = [
    (
        "vit_tiny_patch16_224.augreg_in21k",
        "vit_tiny_patch16_224.augreg_in21k",
        "timm/vit_tiny_patch16_224.augreg_in21k",
    ),
    ("vit_tiny_patch16_224", "vit_tiny_patch16_224", None),
    ("hf-hub:lab/vit@v2", "hf-hub:lab/vit@v2", "lab/vit"),
    ("local-dir:/data/vit", "local-dir:/data/vit", None),
    ("vit_tiny_patch16_224.safetensors", None, None),
    ("my.safetensors", None, None),
    ("package", None, None),
]


@pytest.mark.parametrize(("source", "name", "repository"), SOURCES)
def test_a_base_model_is_named_only_where_the_source_tells_it(
    toy: Toy, source: str, name: str | None, repository: str | None
) -> None:
    record = replace(toy.record, source=source)
    assert (timm_name(record), hub_id(record)) == (name, repository)


@pytest.mark.parametrize(
    ("source", "command"),
    [
        ("my.safetensors", LOCAL),
        ("vit_tiny_patch16_224.x", "onetrunk backbone add vit_tiny_patch16_224.x --arg img_size=32 --as mine/vit"),
        ("package", "onetrunk backbone add mine/vit"),
        ("a\nb", "onetrunk backbone add NAME"),
    ],
)
def test_the_command_that_adds_a_backbone_again_is_whole(toy: Toy, source: str, command: str) -> None:
    identity = replace(toy.record.id, arguments={"img_size": 32})
    assert add_command(replace(toy.record, name="mine/vit", source=source, id=identity)) == command
