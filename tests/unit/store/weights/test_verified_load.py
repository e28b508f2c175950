"""What a load hands out: the slow twin's bytes for every method, and nothing that is damaged or not finite."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from support.custom_tasks import CUSTOM, make_custom_task
from support.loading import check_same, slowly
from support.oracle import MODULES, Shop, TaskFolder, make_peft_task, make_random_task, make_task, open_shop
from support.peft_tasks import CONFIGS

from store.adapters import manifests
from store.errors import IntegrityError, RefusedError
from store.maintenance.verify import verify
from store.records.manifest import Card, Manifest
from store.registry.store import Version
from store.weights.forms import TaskWeights
from store.weights.load_task import load_task

WEIGHTS = "adapter_model.safetensors"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SPOILT = {"a NaN": float("nan"), "an infinity": float("inf"), "a negative infinity": -float("inf")}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


def publish(shop: Shop, made: TaskFolder) -> Version:
    return shop.store.publish("task", made.folder, backbone=shop.backbone.record.name, depth=made.depth)


def loaded(shop: Shop, manifest: Manifest, dtype: torch.dtype = torch.float32) -> TaskWeights:
    return load_task(shop.store, manifest, backbone=shop.backbone.tensors, dtype=dtype)


def make(shop: Shop, folder: Path, method: str) -> TaskFolder:
    if method in CUSTOM:
        return make_custom_task(shop.backbone, folder, method, depth=2)
    targets = [f"blocks.{block}.{kind}" for block in range(2) for kind in MODULES]
    return make_peft_task(shop.backbone, TaskFolder(folder, 2), CONFIGS[method](targets, 4), classes=3)


def convert(path: Path, dtype: torch.dtype) -> None:
    tensors = load_file(path)
    save_file({name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}, path)


def rewritten(shop: Shop, version: Version, part: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Manifest:
    """The manifest of a version whose file was changed by one who also wrote the digests, without `publish`."""
    manifest = version.manifest
    owner = getattr(manifest, part)
    tensors = load(shop.store.read(owner.weights))
    change(tensors)
    blob = shop.store.blobs.put(save(tensors))
    return dataclasses.replace(manifest, **{part: dataclasses.replace(owner, weights=blob, weights_blake3=None)})


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", [*CONFIGS, *CUSTOM])
def test_every_method_is_loaded_as_the_slow_twin_lowers_it(
    shop: Shop, tmp_path: Path, method: str, saved: torch.dtype
) -> None:
    made = make(shop, tmp_path, method)
    convert(tmp_path / WEIGHTS, saved)
    version = publish(shop, made)
    for dtype in DTYPES:
        check_same(loaded(shop, version.manifest, dtype), slowly(shop, version, dtype))


@pytest.mark.parametrize("seed", range(8))
def test_random_tasks_are_loaded_as_the_slow_twin_lowers_them(shop: Shop, tmp_path: Path, seed: int) -> None:
    made = make_random_task(shop.backbone, tmp_path, seed)
    convert(tmp_path / WEIGHTS, random.Random(seed).choice(DTYPES))
    version = publish(shop, made)
    for dtype in DTYPES:
        check_same(loaded(shop, version.manifest, dtype), slowly(shop, version, dtype))


@pytest.mark.parametrize("format_", [4, 5])
def test_a_bit_flipped_anywhere_is_found_and_nothing_is_handed_out(shop: Shop, tmp_path: Path, format_: int) -> None:
    made = make_task(shop.backbone, tmp_path, depth=2, classes=3, seed=format_)
    version = publish(shop, made)
    write_card(version, tmp_path, format_)
    version = shop.store.publish("task", tmp_path)
    assert version.manifest.format == format_
    assert bool(version.manifest.blake3) == (format_ == 5)
    draw = random.Random(format_)
    for blob in version.manifest.blobs:
        path = Path(shop.store.blobs.locate(blob))
        data = path.read_bytes()
        path.chmod(0o644)
        header = range(min(len(data), 24))
        for place in (*header, *(draw.randrange(len(data)) for _ in range(60))):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
            fresh = dataclasses.replace(shop, store=shop.store.with_actor("another"))  # it remembers no shared file
            with pytest.raises(IntegrityError, match="restore the file"):
                loaded(fresh, version.manifest)
        path.write_bytes(data)
    check_same(loaded(shop, version.manifest), slowly(shop, version, torch.float32))


def write_card(version: Version, folder: Path, format_: int) -> None:
    card = Card(version.manifest.backbone, version.manifest.prune_index, format=format_)
    (folder / "onetrunk.json").write_bytes(card.to_json())


@pytest.mark.parametrize("value", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("method", [*CONFIGS, *CUSTOM])
def test_a_number_that_is_not_finite_is_refused_at_load_in_every_tensor(
    shop: Shop, tmp_path: Path, method: str, value: float
) -> None:
    version = publish(shop, make(shop, tmp_path, method))
    names = [n for n, t in load_file(tmp_path / WEIGHTS).items() if t.is_floating_point() and t.numel()]
    draw = random.Random(method)
    for name in draw.sample(names, min(len(names), 12)):

        def spoil(tensors: dict[str, torch.Tensor], name: str = name) -> None:
            tensors[name].view(-1)[draw.randrange(tensors[name].numel())] = value

        with pytest.raises(RefusedError, match="train it again"):
            loaded(shop, rewritten(shop, version, "adapter", spoil))


@pytest.mark.parametrize("value", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_head_that_is_not_finite_is_refused_at_load(shop: Shop, tmp_path: Path, name: str, value: float) -> None:
    version = publish(shop, make_task(shop.backbone, tmp_path, depth=2, classes=3))
    spoilt = rewritten(shop, version, "head", lambda tensors: tensors[name].view(-1)[-1:].fill_(value) and None)
    with pytest.raises(RefusedError, match="head: its numbers are not all finite in float32: train it again"):
        loaded(shop, spoilt)


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "ssf", "head"])
def test_a_number_beyond_the_dtype_of_the_engine_is_refused_there_and_served_in_float32(
    shop: Shop, tmp_path: Path, method: str
) -> None:
    made = make(shop, tmp_path, "lora" if method == "head" else method)
    path = tmp_path / ("head.safetensors" if method == "head" else WEIGHTS)
    tensors = load_file(path)
    name = next(name for name in tensors if not name.endswith(("lora_B.weight", "magnitude_vector")))
    tensors[name].view(-1)[0] = 1e5  # beyond float16
    save_file(tensors, path)
    version = publish(shop, made)
    check_same(loaded(shop, version.manifest), slowly(shop, version, torch.float32))
    for way in (loaded, slowly):
        with pytest.raises(
            RefusedError, match="not all finite in float16: serve it in float32 with `dtype=`, or train"
        ):
            way(shop, version.manifest if way is loaded else version, torch.float16)


def test_a_float32_beyond_bfloat16_is_refused_and_the_module_is_named(shop: Shop, tmp_path: Path) -> None:
    made = make_task(shop.backbone, tmp_path, depth=2, classes=3)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["base_model.model.blocks.1.mlp.fc1.lora_A.weight"][0, 0] = torch.finfo(torch.float32).max
    save_file(tensors, tmp_path / WEIGHTS)
    version = publish(shop, made)
    loaded(shop, version.manifest)
    with pytest.raises(RefusedError, match=r"module 'blocks\.1\.mlp\.fc1': its numbers are not all finite in bfloat16"):
        loaded(shop, version.manifest, torch.bfloat16)


def test_finite_numbers_whose_sum_is_not_finite_are_loaded(shop: Shop, tmp_path: Path) -> None:
    made = make_task(shop.backbone, tmp_path, depth=2, classes=3)
    tensors = {name: torch.full_like(t, 1.5e38) for name, t in load_file(tmp_path / WEIGHTS).items()}
    save_file(tensors, tmp_path / WEIGHTS)
    version = publish(shop, made)
    check_same(loaded(shop, version.manifest), slowly(shop, version, torch.float32))


def test_a_manifest_with_another_blake3_than_its_file_is_never_loaded_and_found_by_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "blake3_of", lambda _: "0" * 64)
    with open_shop(tmp_path) as shop:
        made = make_task(shop.backbone, tmp_path, depth=2, classes=3)
        version = publish(shop, made)
        with pytest.raises(IntegrityError, match=r"task:1: .* has blake3 .*, not the one of its manifest"):
            loaded(shop, version.manifest)
        used_by = [finding.used_by for finding in verify(shop.store, quarantine=True) if "blake3" in finding.problem]
        assert used_by == [("adapter weights of task:1",), ("head weights of task:1",)]
        assert shop.store.read(version.manifest.adapter.weights)  # not set aside: the bytes are what they were


def test_a_manifest_before_the_fifth_format_has_no_second_digest(shop: Shop, tmp_path: Path) -> None:
    version = publish(shop, make_task(shop.backbone, tmp_path, depth=2, classes=3))
    older = dataclasses.replace(
        version.manifest,
        adapter=dataclasses.replace(version.manifest.adapter, weights_blake3=None),
        head=dataclasses.replace(version.manifest.head, weights_blake3=None),
        format=4,
    )
    written = json.loads(older.to_json())
    assert "weights_blake3" not in {*written["adapter"], *written["head"]}
    assert Manifest.from_json(older.to_json()) == older
    check_same(loaded(shop, older), slowly(shop, version, torch.float32))
