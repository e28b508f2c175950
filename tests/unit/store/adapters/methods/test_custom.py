from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.custom_tasks import CUSTOM, make_custom_task
from support.oracle import make_backbone
from support.toy_backbone import change_tensors, set_option

from store.accounting.report import storage_report
from store.adapters.checkpoint import AdapterSummary, check, read_checkpoint
from store.errors import AdapterMismatchError, RefusedError, UnservedAdapterError
from store.maintenance.verify import verify
from store.registry.store import Store
from store.weights.backbones import Backbone, encode

every_method = pytest.mark.parametrize("method", CUSTOM)
SHIFTED = ("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2", "norm1", "norm2")
PLACES = {
    **dict.fromkeys(("convpass", "houlsby"), ("attn", "mlp")),
    **dict.fromkeys(("adaptformer", "adapter+"), ("mlp",)),
    **dict.fromkeys(("ssf", "bitfit"), SHIFTED),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"))


def fit(backbone: Backbone, folder: Path, depth: int = 2) -> AdapterSummary:
    return check(read_checkpoint(folder), backbone.record, depth)


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("wider"), embed_dim=60)


@pytest.fixture(scope="module")
def folders(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("folders")
    return {method: make_custom_task(backbone, folder / method, method, depth=2, rank=4).folder for method in CUSTOM}


@pytest.fixture
def folder(folders: dict[str, Path], method: str, tmp_path: Path) -> Path:
    """A fresh copy of the method's folder, of two blocks and hidden width 4."""
    return Path(shutil.copytree(folders[method], tmp_path / "task"))


@every_method
def test_it_is_taken_with_its_places_from_the_first_block_up_and_its_hidden_width(backbone, folder, method):
    summary = fit(backbone, folder)
    assert summary.method == method
    assert list(summary.ranks) == [f"blocks.{block}.{module}" for block in (0, 1) for module in PLACES[method]]
    assert set(summary.ranks.values()) == {0 if method in ("ssf", "bitfit") else 4}


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_of_half_the_width_are_taken(backbone, folder, dtype):
    change_tensors(folder, lambda tensors: tensors.update({key: value.to(dtype) for key, value in tensors.items()}))
    assert fit(backbone, folder).ranks


@every_method
def test_some_of_the_places_are_taken_where_the_tensors_are_theirs(backbone, folder, method):
    module = f"blocks.1.{PLACES[method][0]}"
    set_option(folder, target_modules=[module])
    change_tensors(folder, lambda t: [t.pop(key) for key in list(t) if not key.startswith(f"{module}.")])
    assert list(fit(backbone, folder).ranks) == [module]


@every_method
@pytest.mark.parametrize(
    "options",
    [
        {"bias": "all"},
        {"modules_to_save": ["norm"]},
        {"lora_alpha": 8},
        {"rank_pattern": {"mlp": 2}},
        {"exclude_modules": ["blocks.0.mlp"]},
        {"an_option_of_tomorrow": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_that_is_not_its_own_is_refused_by_name(backbone, folder, options):
    set_option(folder, **options)
    with pytest.raises(UnservedAdapterError, match=next(iter(options))):
        fit(backbone, folder)


@every_method
@pytest.mark.parametrize(
    "targets",
    [
        None,
        "blocks.0.mlp",
        {"blocks.0.mlp": 1},
        ["mlp"],
        [1],
        [["blocks.0.mlp"]],
        ["blocks.9.mlp"],
        ["blocks.-1.mlp"],
        ["blocks.0.mlp.act"],
        ["blocks.0"],
        ["norm"],
        ["patch_embed.proj"],
    ],
    ids=str,
)
def test_targets_that_are_no_list_of_its_places_are_refused(backbone, folder, targets):
    set_option(folder, target_modules=targets)
    with pytest.raises(AdapterMismatchError, match="target_modules") as caught:
        fit(backbone, folder)
    assert len(str(caught.value).splitlines()) == 1


@every_method
def test_a_place_that_is_named_twice_is_refused(backbone, folder):
    targets = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    set_option(folder, target_modules=[*targets, targets[0]])
    with pytest.raises(AdapterMismatchError, match=f"{targets[0]}' is twice in target_modules"):
        fit(backbone, folder)


@every_method
def test_a_place_without_tensors_and_tensors_without_a_place_are_refused(backbone, folder, method):
    targets = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    set_option(folder, target_modules=targets[1:])
    with pytest.raises(AdapterMismatchError, match="not a tensor of"):
        fit(backbone, folder)
    set_option(folder, target_modules=[*targets, f"blocks.2.{PLACES[method][0]}"])
    with pytest.raises(AdapterMismatchError, match=r"'blocks\.2\..* and not in the file"):
        fit(backbone, folder, depth=3)


@every_method
def test_no_places_at_all_are_refused(backbone, folder):
    set_option(folder, target_modules=[])
    change_tensors(folder, lambda tensors: tensors.clear())
    with pytest.raises(UnservedAdapterError, match="no tensors"):
        fit(backbone, folder)


@every_method
def test_a_place_above_the_depth_is_refused(backbone, folder):
    with pytest.raises(AdapterMismatchError, match="block 2, above depth 1"):
        fit(backbone, folder, depth=1)


SPOILS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "longer by one": lambda value: torch.cat([value.flatten(), value.flatten()[:1]]),
    "of an axis more": lambda value: value[None],
    "the first alone": lambda value: value.flatten()[:1].clone(),
    "whole numbers": lambda value: value.to(torch.int32),
    "of double width": lambda value: value.double(),
    "not a number": lambda value: value * float("nan"),
    "infinite": lambda value: value + float("inf"),
}


@pytest.mark.parametrize("spoil", SPOILS)
@every_method
def test_every_tensors_shape_dtype_and_numbers_are_checked(backbone, folder, spoil):
    whole = (folder / "adapter_model.safetensors").read_bytes()
    for key in [key for key in read_checkpoint(folder).adapter_infos if "blocks.0." in key]:
        change_tensors(folder, lambda tensors, key=key: tensors.update({key: SPOILS[spoil](tensors[key])}))
        with pytest.raises(RefusedError, match=key.replace(".", r"\.")):
            fit(backbone, folder)
        (folder / "adapter_model.safetensors").write_bytes(whole)


@every_method
def test_a_missing_and_an_unknown_tensor_are_refused_by_name(backbone, folder):
    whole = (folder / "adapter_model.safetensors").read_bytes()
    for key in [key for key in read_checkpoint(folder).adapter_infos if "blocks.0." in key]:
        change_tensors(folder, lambda tensors, key=key: tensors.pop(key))
        with pytest.raises(AdapterMismatchError, match=key.replace(".", r"\.") + ".*not in the file"):
            fit(backbone, folder)
        (folder / "adapter_model.safetensors").write_bytes(whole)
    for name in ("blocks.0.mlp.gate", "blocks.3.mlp.down.weight", "base_model.model.blocks.0.mlp.fc1.lora_A.weight"):
        change_tensors(folder, lambda tensors, name=name: tensors.update({name: torch.ones(4)}))
        with pytest.raises(AdapterMismatchError, match=r"not a tensor of|stand under"):
            fit(backbone, folder)
        (folder / "adapter_model.safetensors").write_bytes(whole)


@pytest.mark.parametrize("method", ["convpass", "adaptformer", "houlsby", "adapter+"])
@pytest.mark.parametrize("rank", [0, -1, True, "4", 4.0, None, [4], 10**7, 5])
def test_a_hidden_width_that_is_none_or_not_the_tensors_is_refused(backbone, folder, rank):
    set_option(folder, r=rank)
    with pytest.raises(AdapterMismatchError):
        fit(backbone, folder)


@pytest.mark.parametrize("method", ["ssf", "bitfit"])
def test_a_rank_of_a_method_that_has_none_is_refused(backbone, folder):
    set_option(folder, r=4)
    with pytest.raises(UnservedAdapterError, match="'r' = 4"):
        fit(backbone, folder)


@pytest.mark.parametrize("method", ["houlsby"])
@pytest.mark.parametrize("preset", ["", "pfeiffer", None, 3, ["houlsby"], {"houlsby": 1}])
def test_a_preset_that_is_none_is_refused_with_the_list(backbone, folder, preset):
    set_option(folder, preset=preset)
    with pytest.raises(UnservedAdapterError, match=r"preset.*choose one of adaptformer, houlsby, adapter\+"):
        fit(backbone, folder)


@pytest.mark.parametrize(
    ("method", "other"), [("houlsby", "adaptformer"), ("adaptformer", "adapter+"), ("adapter+", "houlsby")]
)
def test_the_tensors_of_another_preset_are_refused(backbone, folder, other):
    set_option(folder, preset=other)
    with pytest.raises(AdapterMismatchError):
        fit(backbone, folder)


@every_method
def test_a_backbone_of_another_width_is_refused(wider, folder):
    with pytest.raises(AdapterMismatchError, match="use the adapter with the backbone it was tuned on"):
        fit(wider, folder)


@every_method
def test_a_task_is_published_counted_exported_and_verified_like_any_other(backbone, folder, tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        version = store.publish("flowers", folder, backbone=backbone.record.name, depth=2)
        assert version.manifest.adapter.modules == tuple(fit(backbone, folder).ranks)
        exported = store.export("flowers", tmp_path / "exported")
        for name in ("adapter_config.json", "adapter_model.safetensors", "head.safetensors", "classes.txt"):
            assert (exported / name).read_bytes() == (folder / name).read_bytes()
        counted = storage_report(store)
        assert counted.total_nbytes == sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
        assert counted.tasks[0].payload_nbytes == sum(
            info.nbytes
            for infos in (read_checkpoint(folder).adapter_infos, read_checkpoint(folder).head_infos)
            for info in infos.values()
        )
        assert verify(store) == []
