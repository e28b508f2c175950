"""Loading at once, against the slow twin: each file read, verified and lowered by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.loading import check_same, slowly, tensors
from support.oracle import Shop, make_task, open_shop
from support.toy_backbone import set_option

from store.backends.mapped_file import map_file
from store.errors import IntegrityError, UnservedAdapterError
from store.records.blob import Blob
from store.registry import read_only_store
from store.weights import regular_task
from store.weights.backbones import open_backbone
from store.weights.load_task import load_task
from store.weights.lowering.lower import names_in
from store.weights.lowering.stacked_lora import lower_blocks
from store.weights.regular_task import RegularTask
from store.weights.tensor_views import tensors_in


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop"), embed_dim=96) as shop:
        yield shop


REGULAR: dict[str, dict[str, object]] = {
    "every linear map": {},
    "one linear map of one block": {"depth": 1, "modules": ("attn.proj",)},
    "a rank for each kind": {"rank_pattern": {"attn.qkv": 2, "fc1": 7}},
    "rank-stabilised": {"use_rslora": True},
    "an alpha for each block": {"alpha_pattern": {f"blocks.{block}.mlp.fc1": 3 * block + 1 for block in range(4)}},
    "an odd rank": {"rank": 3},
}
OTHER: dict[str, dict[str, object]] = {
    "a rank for each block": {"rank_pattern": {"blocks.1.attn.qkv": 2}},
    "DoRA": {"use_dora": True},
}


DTYPES = {
    "float32": (torch.float32, torch.float32),
    "float32 in bfloat16": (torch.float32, torch.bfloat16),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16 in float32": (torch.float16, torch.float32),
}


@pytest.mark.parametrize(("saved", "dtype"), DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("options", [*REGULAR.values(), *OTHER.values()], ids=[*REGULAR, *OTHER])
def test_a_task_is_loaded_bit_by_bit_as_reading_and_lowering_it_would(
    shop: Shop, tmp_path: Path, options: dict[str, object], saved: torch.dtype, dtype: torch.dtype
) -> None:
    task = make_task(shop.backbone, tmp_path, **{"depth": 4, "classes": 5, **options})
    weights = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor.to(saved) for name, tensor in load_file(weights).items()}, weights)
    try:
        version = shop.store.publish("task", tmp_path, backbone=shop.backbone.record.name, depth=task.depth)
    except UnservedAdapterError as error:  # then there is nothing to load
        pytest.skip(str(error))
    loaded = load_task(shop.store, version.manifest, backbone=shop.backbone.tensors, dtype=dtype)
    check_same(loaded, slowly(shop, version, dtype))


@pytest.mark.parametrize(
    ("options", "regular"), [*((o, True) for o in REGULAR.values()), *((o, False) for o in OTHER.values())]
)
def test_only_plain_factors_of_one_shape_a_kind_are_lowered_at_once(
    shop: Shop, tmp_path: Path, options: dict[str, object], regular: bool
) -> None:
    make_task(shop.backbone, tmp_path, **{"depth": 4, "classes": 5, **options})
    adapter = map_file(str(tmp_path / "adapter_model.safetensors"))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **{k: v for k, v in options.items() if "pattern" in k}}
    assert (lower_blocks(config, adapter, dtype=torch.float32) is not None) == regular
    assert lower_blocks({**config, "peft_type": "VERA"}, adapter, dtype=torch.float32) is None


def test_a_loaded_task_keeps_no_file_mapped_and_shares_no_memory_with_another_load_of_it(
    shop: Shop, tmp_path: Path
) -> None:
    make_task(shop.backbone, tmp_path, depth=4, classes=5)
    version = shop.store.publish("mine", tmp_path, backbone=shop.backbone.record.name, depth=4)
    first, second = (load_task(shop.store, version.manifest, backbone=shop.backbone.tensors) for _ in range(2))
    assert version.manifest.adapter.weights.nbytes > 1 << 16
    assert version.manifest.adapter.weights.sha256 not in Path("/proc/self/maps").read_text()
    for tensor in tensors(first).values():
        tensor.zero_()
    check_same(second, slowly(shop, version, torch.float32))


@pytest.mark.parametrize("few_nbytes", [0, 1 << 20], ids=["hashed by a thread", "hashed first"])
@pytest.mark.parametrize("part", ["adapter weights", "head weights", "class names", "adapter config"])
def test_a_task_with_a_damaged_file_is_never_loaded_and_the_message_names_task_and_part(
    shop: Shop, tmp_path: Path, part: str, few_nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.backends.blobs.FEW_NBYTES", few_nbytes)
    make_task(shop.backbone, tmp_path, depth=4, classes=5, seed=1 + few_nbytes)
    set_option(tmp_path, revision=f"{part} {few_nbytes}")  # so that each version has files of its own
    labels = tmp_path / "classes.txt"
    labels.write_text(labels.read_text().replace("class", f"{part} {few_nbytes}"))
    save_file(
        {k: v + 1 + few_nbytes for k, v in load_file(tmp_path / "head.safetensors").items()},
        tmp_path / "head.safetensors",
    )
    version = shop.store.publish("torn", tmp_path, backbone=shop.backbone.record.name, depth=4)
    adapter, head = version.manifest.adapter, version.manifest.head
    blob = {
        "adapter weights": adapter.weights,
        "head weights": head.weights,
        "class names": head.labels,
        "adapter config": adapter.config,
    }[part]
    path = Path(shop.store.blobs.locate(blob))
    data = path.read_bytes()
    for damaged in (data[:-1] + bytes([data[-1] ^ 1]), data[::-1]):
        path.chmod(0o644)
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=f"{part} of torn:.* not the one (that names it|of its manifest)"):
            load_task(shop.store, version.manifest, backbone=shop.backbone.tensors)
    path.write_bytes(data)
    load_task(shop.store, version.manifest, backbone=shop.backbone.tensors)


def test_what_versions_have_in_common_is_read_once_and_no_more_of_it_remembered_than_is_right(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_only_store, "MOST_SHARED", 3)
    asked: list[Blob] = []
    get = shop.store.blobs.get
    monkeypatch.setattr(shop.store.blobs, "get", lambda blob: asked.append(blob) or get(blob))
    small = [shop.store.blobs.put(bytes([index])) for index in range(4)]
    large = shop.store.blobs.put(bytes(read_only_store.SHARED_NBYTES + 1))
    for blob in (small[0], small[0], large, large, *small[1:], small[3], small[0]):
        assert shop.store.read_shared(blob) == get(blob)
    assert asked == [small[0], large, large, *small[1:], small[0]]


def test_headers_and_class_names_that_are_large_are_not_remembered(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_task(shop.backbone, tmp_path, depth=2, classes=5)
    labels = ("name " * 2000 + "\n").encode() * 2
    assert names_in(labels) == tuple(labels.decode().splitlines())
    assert names_in(labels) is not names_in(labels)
    assert names_in(b"a\nb\n") is names_in(b"a\nb\n")
    files = {name: map_file(str(made.folder / name)) for name in ("adapter_model.safetensors", "head.safetensors")}
    config = (made.folder / "adapter_config.json").read_bytes()
    assert RegularTask.of(2, config, *files.values(), b"") is not None
    monkeypatch.setattr(regular_task, "MOST_NBYTES", 1000)
    assert RegularTask.of(2, config, *files.values(), b"") is None


def test_a_backbone_of_the_store_is_mapped_and_its_model_is_memory_of_its_own(shop: Shop) -> None:
    backbone = open_backbone(shop.store, shop.store.backbone(shop.backbone.record.name))
    assert backbone.record.weights is not None
    assert backbone.record.weights.sha256 in Path("/proc/self/maps").read_text()
    model = backbone.build()
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.zero_()
    assert all(torch.equal(tensor, shop.backbone.tensors[name]) for name, tensor in backbone.tensors.items())


def test_tensors_without_numbers_are_tensors_too(tmp_path: Path) -> None:
    save_file({"none": torch.zeros(0, 3), "one": torch.ones(())}, tmp_path / "file")
    read = tensors_in(map_file(str(tmp_path / "file")), "file")
    assert {name: tuple(tensor.shape) for name, tensor in read.items()} == {"none": (0, 3), "one": ()}
