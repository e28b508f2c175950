from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from support.toy_backbone import BLOCKS, CLASSES, DIM, KINDS, Toy, publish, relabel, toy_model, tune

from store.accounting.report import StorageReport, storage_report
from store.registry.store import Store


def folder_nbytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def elements(*prefixes: str) -> int:
    return sum(tensor.numel() for name, tensor in toy_model().state_dict().items() if name.startswith(prefixes))


def check_identity(counted: StorageReport, root: Path) -> None:
    parts = (counted.live_nbytes, counted.reclaimable_nbytes, counted.garbage_nbytes, counted.overhead_nbytes)
    assert counted.total_nbytes == sum(parts) == folder_nbytes(root)


@pytest.fixture
def three(store: Store, folder: Path, tmp_path: Path) -> Store:
    """Flowers in two versions and cars, which shares its tensors and config; birds has its own, in every block."""
    publish(store, folder)
    publish(store, relabel(folder, "a", "b", "c"))
    publish(store, folder, "cars")
    publish(store, relabel(tune(tmp_path / "birds", depth=BLOCKS), "owl", "tit", "jay"), "birds", depth=None)
    return store


def test_the_total_is_the_sum_of_the_files_to_the_byte(three: Store) -> None:
    (three.root / "notes.txt").write_bytes(b"x" * 1234)
    (three.root / "blobs" / "sha256" / ".torn.partial").write_bytes(b"x" * 99)
    orphan = three.blobs.put(b"left by a publish that died")
    counted = storage_report(three)
    check_identity(counted, three.root)
    assert counted.garbage_nbytes == 1234 + 99
    assert counted.garbage_files == ("blobs/sha256/.torn.partial", "notes.txt")
    assert counted.reclaimable_nbytes == orphan.nbytes


def test_the_total_holds_while_another_reader_keeps_the_catalogue_open(three: Store) -> None:
    with closing(sqlite3.connect(three.root / "catalogue.sqlite")) as reader:
        reader.execute("select * from versions").fetchall()
        counted = storage_report(three)
        check_identity(counted, three.root)
    assert counted.garbage_nbytes == 0


def test_an_empty_store_is_all_overhead(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", create=True) as store:
        counted = storage_report(store)
    check_identity(counted, tmp_path / "store")
    assert counted.total_nbytes == counted.overhead_nbytes
    assert (counted.tasks, counted.mean_depth, counted.counterfactuals.full_copies_fp32) == ((), 0.0, 0)


def test_a_task_is_its_payload_headers_and_manifest(three: Store) -> None:
    for task in storage_report(three).tasks:
        parts = (task.payload_nbytes, task.header_nbytes, task.manifest_nbytes)
        assert sum(parts) == task.unique_nbytes + task.shared_nbytes == three.resolve(task.task).nbytes
    birds = storage_report(three).tasks[0]
    rank, sides = 4, sum(sum(three.backbone("toy/vit").modules[f"blocks.0.{kind}"]) for kind in KINDS)
    assert birds.payload_nbytes == 4 * (BLOCKS * rank * sides + CLASSES * (DIM + 1))


def test_only_what_no_other_task_names_is_unique(three: Store) -> None:
    tasks = {task.task: task for task in storage_report(three).tasks}
    assert tasks["birds"].shared_nbytes == 0
    assert tasks["cars"].unique_nbytes == three.resolve("cars").manifest_nbytes
    own = {three.resolve(f"flowers:{number}").manifest_blob for number in (1, 2)}
    own.add(three.resolve("flowers:1").manifest.head.labels)
    assert tasks["flowers"].freed_if_deleted_nbytes == sum(blob.nbytes for blob in own)
    assert tasks["flowers"].versions == 2


def test_the_cut_saves_what_the_blocks_above_would_take(three: Store) -> None:
    tasks = {task.task: task for task in storage_report(three).tasks}
    assert tasks["birds"].saved_by_cut_nbytes == 0
    head = 4 * CLASSES * (DIM + 1)
    assert tasks["cars"].saved_by_cut_nbytes == tasks["birds"].payload_nbytes - tasks["cars"].payload_nbytes
    assert tasks["cars"].saved_by_cut_nbytes == tasks["cars"].payload_nbytes - head  # two blocks of four


def test_the_other_ways_are_counted_from_the_real_model(three: Store) -> None:
    ways, head = storage_report(three).counterfactuals, CLASSES * (DIM + 1)
    whole, above = elements(""), elements("blocks.2.", "blocks.3.")
    assert ways.full_copies_fp32 == 3 * 4 * (whole + head)
    assert ways.full_copies_serving_dtype == 3 * 2 * (whole + head)
    assert ways.pruned_copies == 4 * (3 * (whole + head) - 2 * above)
    linear = sum(m.weight.numel() for n, m in toy_model().blocks.named_modules() if isinstance(m, torch.nn.Linear))
    # Merged copies own the linear maps that they adapt; the backbone's own of blocks 1 and 2 are left to nobody.
    assert ways.deduplicated_copies == 4 * (whole - linear // 2 + linear + 2 * linear // 2 + 3 * head)


def test_resident_tasks_share_one_backbone(three: Store, toy: Toy) -> None:
    counted = storage_report(three)
    payload, head = sum(task.payload_nbytes for task in counted.tasks), 4 * CLASSES * (DIM + 1)
    assert counted.resident.shared_nbytes == toy.record.nbytes + payload
    assert counted.resident.copies_nbytes == 3 * (toy.record.nbytes + head)
    assert (counted.run_blocks, counted.all_blocks) == (2 + 2 + BLOCKS, 3 * BLOCKS)


def test_a_backbone_kept_elsewhere_counts_its_record_alone(toy: Toy, folder: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", create=True) as store:
        store.add_backbone(toy.record, None)
        publish(store, folder)
        counted = storage_report(store)
    assert counted.backbones[0].kept_elsewhere
    assert counted.backbones[0].stored_nbytes < 2000
    assert counted.counterfactuals.full_copies_fp32 == 4 * (elements("") + CLASSES * (DIM + 1))
    assert counted.counterfactuals.pruned_copies == 4 * (
        elements("") - elements("blocks.2.", "blocks.3.") + CLASSES * (DIM + 1)
    )


def test_the_same_store_gives_the_same_json(three: Store) -> None:
    data = storage_report(three).to_json()
    assert json.dumps(data) == json.dumps(storage_report(three).to_json())
    assert {"format", "total_nbytes", "live_nbytes", "reclaimable_nbytes", "garbage_nbytes"} < data.keys()
    assert {field.name for field in dataclasses.fields(StorageReport)} < data.keys()
