from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.toy_backbone import BLOCKS, CLASSES, DIM, Toy, change_tensors, fit, relabel, set_option

from store.adapters.checkpoint import check, parse_classes, read_checkpoint
from store.errors import (
    AdapterMismatchError,
    BackboneMismatchError,
    FormatError,
    HeadMismatchError,
    NotFoundError,
    RefusedError,
    UnservedAdapterError,
)
from store.records.evidence import PruneIndex
from store.records.manifest import Card
from store.registry.store import Store


def test_a_folder_from_stock_peft_is_served(folder: Path, toy: Toy) -> None:
    fitted = check(read_checkpoint(folder), toy.record, 2)
    assert fitted.method == "lora"
    assert list(fitted.ranks.values()) == [4] * 8


def test_an_adapter_above_the_depth_is_refused(folder: Path, toy: Toy) -> None:
    with pytest.raises(AdapterMismatchError, match=r"in block 2, above depth 1: .*publish at depth 2"):
        fit(folder, toy, 1)


@pytest.mark.parametrize("depth", [0, -1, BLOCKS + 1])
def test_a_depth_outside_the_backbone_is_refused(folder: Path, toy: Toy, depth: int) -> None:
    with pytest.raises(AdapterMismatchError, match=r"outside 1\.\.4"):
        fit(folder, toy, depth)


def test_an_adapter_without_tensors_is_refused(folder: Path, toy: Toy) -> None:
    change_tensors(folder, lambda tensors: tensors.clear())
    with pytest.raises(UnservedAdapterError, match="no tensors"):
        fit(folder, toy)


@pytest.mark.parametrize("name", ["adapter_model", "head"])
def test_a_value_that_is_not_finite_is_refused(folder: Path, name: str) -> None:
    change_tensors(folder, lambda tensors: next(iter(tensors.values())).view(-1)[0].fill_(float("nan")), name)
    with pytest.raises(RefusedError, match=f"{name}.safetensors.*NaN"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        ((CLASSES + 1, DIM), (CLASSES + 1,), "4 wide, classes.txt names 3"),
        ((CLASSES, DIM + 1), (CLASSES,), "takes 49 features, toy/vit gives 48"),
        ((CLASSES, DIM), (CLASSES + 1,), "expected"),
        ((CLASSES * DIM,), (CLASSES,), "expected"),
        ((CLASSES, DIM), None, "weight and bias alone"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    folder: Path, toy: Toy, weight: tuple[int, ...], bias: tuple[int, ...] | None, message: str
) -> None:
    head = {"weight": torch.ones(weight)} | ({} if bias is None else {"bias": torch.ones(bias)})
    save_file(head, folder / "head.safetensors")
    with pytest.raises(HeadMismatchError, match=message):
        fit(folder, toy)


def test_a_head_of_whole_numbers_is_refused(folder: Path, toy: Toy) -> None:
    head = {"weight": torch.ones(CLASSES, DIM, dtype=torch.int8), "bias": torch.ones(CLASSES)}
    save_file(head, folder / "head.safetensors")
    with pytest.raises(HeadMismatchError, match="F32, F16, BF16"):
        fit(folder, toy)


def test_a_head_of_one_class_is_refused(folder: Path, toy: Toy) -> None:
    save_file({"weight": torch.ones(1, DIM), "bias": torch.ones(1)}, folder / "head.safetensors")
    with pytest.raises(HeadMismatchError, match="at least 2"):
        fit(relabel(folder, "rose"), toy)


@pytest.mark.parametrize(
    "labels",
    [b"", b"a\n\nb\n", b"a\nb\n\n", b"a\r\nb\r\n", b" a\nb\n", b"a\nb\na\n", b"a\x1b[2J\nb\n", "a\u2028b\n".encode()],
)
def test_class_names_that_are_not_clear_are_refused(labels: bytes) -> None:
    with pytest.raises(HeadMismatchError, match="class"):
        parse_classes(labels)


def test_class_names_may_be_in_any_script_and_lack_the_last_line_feed() -> None:
    assert parse_classes("Rose\nバラ\nroyal blue".encode()) == ("Rose", "バラ", "royal blue")


def test_class_names_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(FormatError, match="UTF-8"):
        parse_classes(b"\xff\xfe\n")


def write_card(folder: Path, toy: Toy, **changes: object) -> None:
    index = PruneIndex(**{"depth": 2, "blocks": BLOCKS, "criterion": "given", **changes})
    (folder / "onetrunk.json").write_bytes(Card(toy.record.id.fingerprint, index).to_json())


def test_a_task_made_on_another_backbone_is_refused(folder: Path, toy: Toy) -> None:
    write_card(folder, toy)
    record = dataclasses.replace(toy.record, id=dataclasses.replace(toy.record.id, fingerprint="0" * 64))
    with pytest.raises(BackboneMismatchError, match=toy.record.id.fingerprint):
        check(read_checkpoint(folder), record, 2)


def test_a_card_of_another_number_of_blocks_is_refused(folder: Path, toy: Toy) -> None:
    write_card(folder, toy, blocks=12)
    with pytest.raises(BackboneMismatchError, match="12 blocks, toy/vit has 4"):
        fit(folder, toy)


def test_a_depth_that_contradicts_the_card_is_refused(folder: Path, toy: Toy) -> None:
    write_card(folder, toy)
    with pytest.raises(AdapterMismatchError, match="says depth 2, not 3: leave out `depth=`"):
        fit(folder, toy, 3)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "head.safetensors", "classes.txt"]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FormatError, match=f"has no {re.escape(name)}"):
        read_checkpoint(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder"):
        read_checkpoint(tmp_path / "none")


def test_a_pickle_is_not_read(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(FormatError, match=r"pickle.*save_pretrained"):
        read_checkpoint(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, content: str) -> None:
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(FormatError, match=r"adapter_config\.json"):
        read_checkpoint(folder)


def test_a_refused_folder_leaves_the_store_as_it_was(store: Store, folder: Path) -> None:
    before = sorted(store.root.rglob("*"))
    set_option(folder, use_dora=True)
    with pytest.raises(RefusedError):
        store.publish("flowers", folder, backbone="toy/vit", depth=2)
    assert sorted(store.root.rglob("*")) == before
