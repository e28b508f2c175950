"""Tasks tuned with transformers and PEFT answer as they did there: every method, family and way to name modules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from support.oracle import TaskFolder, reference_logits
from support.peft_tasks import CONFIGS
from support.transformers_tasks import (
    BLOCKS,
    CLASSIC,
    FAMILIES,
    MODULES,
    PROCESSOR,
    SIZE,
    Tuned,
    ia3,
    ln,
    make_base,
    paths,
    rename,
    tune,
)

from onetrunk.workflows import publish_folder
from serving.engine.engine import Engine
from store.errors import (
    AdapterMismatchError,
    BackboneMismatchError,
    HeadMismatchError,
    InvalidSettingError,
    UnservedAdapterError,
    UnservedBackboneError,
)
from store.records.backbone import hub_id, source_of
from store.registry.store import Store, Version
from store.weights.backbones import load_backbone, open_backbone
from store.weights.load_task import load_task

WITHIN = 1e-4
IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
NOT_HERE = {"ia3", "ia3, outputs alone", "ln"}  # name modules of timm; their like is below
TURNED = ("oft", "boft")
WITHOUT_BIAS = {"lora, biases of its own", "lora, both biases", "dora, rank-stabilised, biases of its own", "beft"}
METHODS = [name for name in CONFIGS if name not in NOT_HERE and not name.startswith(TURNED)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for family in FAMILIES:
        made[family] = tmp_path_factory.mktemp("bases") / family
        make_base(made[family], family)
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("store") / "store", create=True) as opened:
        yield opened


def reloaded(family: str) -> torch.nn.Module:
    """Return the model that `make_base` saved, in memory: its numbers depend on the seed alone."""
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def served(store: Store, version: Version) -> torch.Tensor:
    backbone = open_backbone(store, store.backbone(version.manifest.backbone))
    weights = load_task(store, version.manifest, backbone=backbone.tensors)
    return torch.stack(Engine(backbone).forward(IMAGES, [weights] * len(IMAGES)))


def check_answers(store: Store, tuned: Tuned, base: Path, **options: object) -> Version:
    version = publish_folder(store, "flowers", tuned.folder, backbone=str(base), **options)
    expected = tuned.logits(IMAGES)
    assert (served(store, version) - expected).abs().max() <= WITHIN
    assert expected.std() > 100 * WITHIN
    return version


@pytest.mark.parametrize("name", METHODS)
def test_a_method_on_the_maps_of_a_vit_answers_as_in_transformers_and_as_stock_peft_on_timm(
    store: Store, bases: dict[str, Path], tmp_path: Path, name: str
) -> None:
    tuned = tune(tmp_path / "task", reloaded("vit"), CONFIGS[name](paths("vit"), 3))
    version = check_answers(store, tuned, bases["vit"])
    backbone = open_backbone(store, store.backbone(version.manifest.backbone))
    exported = store.export(f"flowers:{version.number}", tmp_path / "exported")
    alone = torch.stack(reference_logits(backbone, TaskFolder(exported, BLOCKS), IMAGES))
    assert (alone - tuned.logits(IMAGES)).abs().max() <= WITHIN


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_every_family_with_random_modules_and_ranks(
    store: Store, bases: dict[str, Path], tmp_path: Path, family: str, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    chosen = [MODULES[i] for i in torch.randperm(len(MODULES), generator=draw)[: 1 + 2 * seed]]
    names = sorted({*METHODS} - WITHOUT_BIAS - {"glora"})  # of rank 2 PEFT saves other tensors than its config says
    name = names[int(torch.randint(len(names), (1,), generator=draw)) - seed]
    tuned = tune(tmp_path, reloaded(family), CONFIGS[name](paths(family, chosen), 1 + seed), seed=seed)
    check_answers(store, tuned, bases[family])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", [ia3, ln])
def test_scales_and_norms_in_every_family(store: Store, bases: dict[str, Path], tmp_path: Path, family, config) -> None:
    version = check_answers(store, tune(tmp_path, reloaded(family), config(family)), bases[family])
    assert version.manifest.adapter.method == {ia3: "ia3", ln: "ln"}[config]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith(TURNED)])
def test_turns_of_maps_that_timm_has_alike_and_no_others(
    store: Store, bases: dict[str, Path], tmp_path: Path, name: str
) -> None:
    alike = ("attention.o_proj", "mlp.fc1", "mlp.fc2")
    tuned = tune(tmp_path / "task", reloaded("vit"), CONFIGS[name](paths("vit", alike), 3))
    version = check_answers(store, tuned, bases["vit"])
    assert version.manifest.adapter.method == name.partition(",")[0]
    tune(tmp_path / "other", reloaded("vit"), CONFIGS[name](paths("vit", ["attention.q_proj"]), 3))
    with pytest.raises(UnservedAdapterError, match="turned apart, which costs a copy of the map"):
        publish_folder(store, "flowers", tmp_path / "other", backbone=str(bases["vit"]))


def lora(**options: object) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **options})


def test_the_names_of_transformers_before_version_5(store: Store, bases: dict[str, Path], tmp_path: Path) -> None:
    tuned = tune(tmp_path, reloaded("vit"), lora(target_modules=["q_proj", "o_proj", "fc2"], alpha_pattern={"fc2": 3}))
    rename(
        tmp_path,
        [*CLASSIC, ('"q_proj"', '"query"'), ('"o_proj"', '"attention.output.dense"'), ('"fc2"', '"output.dense"')],
    )
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["target_modules"] = r".*\.(query|dense)"
    config["exclude_modules"] = r".*\.intermediate\.dense"
    config["alpha_pattern"] = {r"\d+\.output\.dense": 3}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    version = check_answers(store, tuned, bases["vit"])
    assert "blocks.0.mlp.fc1" not in version.manifest.adapter.modules


def test_the_version_says_its_classes_its_preprocessing_and_its_rank(
    store: Store, bases: dict[str, Path], tmp_path: Path
) -> None:
    told: list[str] = []
    tuned = tune(tmp_path, reloaded("vit"), lora())
    version = check_answers(store, tuned, bases["vit"], tell=told.append)
    assert store.read(version.manifest.head.labels) == b"rose\ntulip\npoppy\n"
    assert version.manifest.adapter.rank == 8
    record = store.backbone(version.manifest.backbone)
    assert (record.id.preprocessing.crop_mode, record.id.preprocessing.interpolation) == ("squash", "bilinear")
    assert any("converted a lora adapter of transformers" in line for line in told)
    with pytest.raises(HeadMismatchError, match=r"does not name its classes: save classes\.txt there"):
        publish_folder(store, "flowers", tmp_path, backbone=record.name)
    (tmp_path / "classes.txt").write_text("rose\ntulip\npoppy\n")
    assert publish_folder(store, "flowers", tmp_path, backbone=record.name).digest == version.digest


def test_sixteen_bit_numbers_stay_sixteen_bit(store: Store, bases: dict[str, Path], tmp_path: Path) -> None:
    tuned = tune(tmp_path, reloaded("vit"), lora(lora_alpha=8))
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    version = publish_folder(store, "flowers", tuned.folder, backbone=str(bases["vit"]))
    weights = store.read(version.manifest.adapter.weights)
    assert b'"BF16"' in weights
    assert b'"F32"' not in weights
    assert (served(store, version) - tuned.logits(IMAGES)).abs().max() < 0.05


def test_blocks_above_the_depth_are_dropped_on_request(store: Store, bases: dict[str, Path], tmp_path: Path) -> None:
    tune(tmp_path, reloaded("vit"), lora())
    with pytest.raises(AdapterMismatchError, match="`drop_above_depth=True`"):
        publish_folder(store, "flowers", tmp_path, backbone=str(bases["vit"]), depth=2)
    version = publish_folder(store, "flowers", tmp_path, backbone=str(bases["vit"]), depth=2, drop_above_depth=True)
    assert version.manifest.adapter.modules == ("blocks.0.attn.qkv", "blocks.1.attn.qkv")


def test_the_base_models_own_classifier_and_a_head_of_its_own(
    store: Store, bases: dict[str, Path], tmp_path: Path
) -> None:
    tuned = tune(tmp_path, reloaded("vit"), lora())
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    head = {part: tensors.pop(f"base_model.model.classifier.{part}") for part in ("weight", "bias")}
    save_file(tensors, path)
    version = publish_folder(store, "flowers", tmp_path, backbone=str(bases["vit"]))
    base = load_file(bases["vit"] / "model.safetensors")["classifier.weight"]
    assert torch.equal(
        load_file(store.export(f"flowers:{version.number}", tmp_path / "out") / "head.safetensors")["weight"], base
    )
    save_file(head, tmp_path / "head.safetensors")
    check_answers(store, tuned, bases["vit"])


def set_json(path: Path, **options: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def test_what_cannot_be_equal_is_refused_in_one_line(store: Store, bases: dict[str, Path], tmp_path: Path) -> None:
    folder, base = tmp_path / "task", str(bases["vit"])
    tune(folder, reloaded("vit"), lora())
    cases = [
        (BackboneMismatchError, "name the base model with `backbone=`", {"backbone": None}),
        (InvalidSettingError, "neither a backbone of the store nor a model", {"backbone": "vitt"}),
        (AdapterMismatchError, "outside 1..3", {"backbone": base, "depth": 9}),
    ]
    for kind, text, options in cases:
        with pytest.raises(kind, match=text):
            publish_folder(store, "flowers", folder, **options)
    set_json(folder / "adapter_config.json", target_modules=["q_proj", "k_proj", "v_proj"])
    with pytest.raises(AdapterMismatchError, match="has no tensors for it"):
        publish_folder(store, "flowers", folder, backbone=base)
    set_json(folder / "adapter_config.json", target_modules=["q_proj", "v_proj", "projection"])
    with pytest.raises(AdapterMismatchError, match="which every task shares"):
        publish_folder(store, "flowers", folder, backbone=base)


def test_a_wrong_processor_or_family_is_refused(store: Store, bases: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "task"
    tune(folder, reloaded("vit"), lora())
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "image_mean": [0.1, 0.2, 0.3]}))
    for backbone in (str(bases["vit"]), "vit"):
        with pytest.raises((UnservedBackboneError, BackboneMismatchError), match="image processor"):
            publish_folder(store, "flowers", folder, backbone=backbone)
    other = tmp_path / "swin"
    other.mkdir()
    for file in bases["vit"].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    set_json(other / "config.json", model_type="swin")
    with pytest.raises(UnservedBackboneError, match="model of type 'swin', which is not converted"):
        publish_folder(store, "flowers", folder, backbone=str(other))


def test_scales_of_the_inputs_of_query_and_value_apart_are_refused(
    store: Store, bases: dict[str, Path], tmp_path: Path
) -> None:
    config = ia3("vit")
    config.target_modules, config.feedforward_modules = {"q_proj", "v_proj"}, {"q_proj", "v_proj"}
    tune(tmp_path, reloaded("vit"), config)
    with pytest.raises(UnservedAdapterError, match="scaled apart, which costs a copy of the map"):
        publish_folder(store, "flowers", tmp_path, backbone=str(bases["vit"]))


def test_a_base_model_of_the_hub_is_fetched_as_safetensors_alone(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repository: str, file: str, *, revision: str | None) -> str:
        asked.append((repository, file, revision))
        return str(bases["vit"] / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    backbone = load_backbone("hf-hub:google/vit-base@v2", label="vit-base")
    assert backbone.record.name == "vit-base"
    assert hub_id(backbone.record) == "google/vit-base"
    assert source_of(backbone.record).name == "hf-hub:google/vit-base@v2"
    files = ["config.json", "preprocessor_config.json", "model.safetensors"]
    assert asked == [("google/vit-base", file, "v2") for file in files]


def test_a_head_of_two_layers_is_refused(store: Store, bases: dict[str, Path], tmp_path: Path) -> None:
    tune(tmp_path, reloaded("vit"), lora())
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.classifier.dense.weight"] = torch.ones(4, 4)
    save_file(tensors, path)
    with pytest.raises(HeadMismatchError, match="more than one linear map"):
        publish_folder(store, "flowers", tmp_path, backbone=str(bases["vit"]))
