from __future__ import annotations

import dataclasses
import itertools
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from support.processes import in_a_child
from support.toy_backbone import BLOCKS, CLASSES, DIM, KINDS, Toy, publish, relabel, toy_model, tune

from store.accounting.report import REPORT_FORMAT, StorageReport, account_of, storage_report
from store.accounting.rows import PARTS
from store.maintenance.garbage import collect_garbage
from store.records.manifest import MANIFEST_FORMAT
from store.registry.read_only_store import ReadOnlyStore
from store.registry.store import Store


def folder_nbytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def elements(*prefixes: str) -> int:
    return sum(tensor.numel() for name, tensor in toy_model().state_dict().items() if name.startswith(prefixes))


def payload_of(store: Store, task: str) -> int:
    return next(row.payload_nbytes for row in storage_report(store).tasks if row.task == task)


def check_identity(counted: StorageReport, root: Path) -> None:
    places = counted.places
    parts = (places.live_nbytes, places.reclaimable_nbytes, places.garbage_nbytes, places.overhead_nbytes)
    assert counted.total_nbytes == sum(parts) == folder_nbytes(root)
    assert places.files == sum(path.is_file() for path in root.rglob("*"))


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
    assert counted.places.garbage_nbytes == 1234 + 99
    assert counted.garbage_files == ("blobs/sha256/.torn.partial", "notes.txt")
    assert counted.places.reclaimable_nbytes == orphan.nbytes


def test_the_total_holds_while_another_reader_keeps_the_catalogue_open(three: Store) -> None:
    with closing(sqlite3.connect(three.root / "catalogue.sqlite")) as reader:
        reader.execute("select * from versions").fetchall()
        counted = storage_report(three)
        check_identity(counted, three.root)
    assert counted.places.garbage_nbytes == 0


def test_an_empty_store_is_all_overhead(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", create=True) as store:
        counted = storage_report(store)
    check_identity(counted, tmp_path / "store")
    assert counted.total_nbytes == counted.places.overhead_nbytes
    assert (counted.tasks, counted.versions, counted.mean_depth, counted.comparison.forms) == ((), (), 0.0, ())


def test_a_version_is_its_parts_and_what_it_shares_or_has_alone(three: Store) -> None:
    counted = storage_report(three)
    for row in (*counted.versions, *counted.tasks):
        version = three.resolve(f"{row.task}:{row.version}")
        assert sum(getattr(row, f"{part}_nbytes") for part in PARTS) == row.nbytes == version.nbytes
        assert row.manifest_nbytes == version.manifest_nbytes
        assert row.config_nbytes == version.manifest.adapter.config.nbytes
        assert row.labels_nbytes == version.manifest.head.labels.nbytes
    assert all(row.unique_nbytes + row.shared_nbytes == row.nbytes for row in counted.versions)
    assert all(task.unique_nbytes + task.shared_nbytes == task.stored_nbytes for task in counted.tasks)
    birds = counted.tasks[0]
    rank, sides = 4, sum(sum(three.backbone("toy/vit").modules[f"blocks.0.{kind}"]) for kind in KINDS)
    assert birds.payload_nbytes == 4 * (BLOCKS * rank * sides + CLASSES * (DIM + 1))


def test_only_what_no_other_task_names_is_unique(three: Store) -> None:
    tasks = {task.task: task for task in storage_report(three).tasks}
    assert tasks["birds"].shared_nbytes == 0
    assert tasks["cars"].unique_nbytes == three.resolve("cars").manifest_nbytes
    assert tasks["cars"].freed_if_deleted_nbytes == tasks["cars"].unique_nbytes
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
    ways, head = storage_report(three).comparison, CLASSES * (DIM + 1)
    whole, above = elements(""), elements("blocks.2.", "blocks.3.")
    assert ways.form("full_copies_fp32").nbytes == 3 * 4 * (whole + head)
    assert ways.form("full_copies_serving_dtype").nbytes == 3 * 2 * (whole + head)
    assert ways.form("pruned_copies").nbytes == 4 * (3 * (whole + head) - 2 * above)
    linear = sum(m.weight.numel() for n, m in toy_model().blocks.named_modules() if isinstance(m, torch.nn.Linear))
    # Merged copies own the linear maps that they adapt; the backbone's own of blocks 1 and 2 are left to nobody.
    assert ways.form("deduplicated_copies").nbytes == 4 * (whole - linear // 2 + linear + 2 * linear // 2 + 3 * head)
    payload = sum(task.payload_nbytes for task in storage_report(three).tasks)
    assert ways.form("paper_sum").nbytes == 4 * whole + payload
    assert ways.form("uncut_adapters").nbytes == 4 * whole + payload + 2 * (payload_of(three, "cars") - 4 * head)
    masks = 3 * BLOCKS * (DIM + 4 * DIM) // 8  # a bit for each head dimension and hidden unit
    assert ways.form("pruned_index").nbytes == 4 * whole + payload + masks
    assert ways.form("depgraph_copies").nbytes == 4 * (3 * whole * 21_665_664 // 85_798_656 + 3 * head // 2)


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
    assert counted.comparison.nbytes == counted.total_nbytes + toy.record.nbytes
    assert counted.comparison.form("full_copies_fp32").nbytes == 4 * (elements("") + CLASSES * (DIM + 1))
    assert counted.comparison.form("pruned_copies").nbytes == 4 * (
        elements("") - elements("blocks.2.", "blocks.3.") + CLASSES * (DIM + 1)
    )


def test_the_same_store_gives_the_same_json(three: Store) -> None:
    data = storage_report(three).to_json()
    assert json.dumps(data) == json.dumps(storage_report(three).to_json())
    assert data["format"] == REPORT_FORMAT
    assert {field.name for field in dataclasses.fields(StorageReport)} < data.keys()


def test_groups_add_up_to_what_their_versions_reference(three: Store) -> None:
    publish(three, three.export("cars", three.root.parent / "cars"), "acme/cars", depth=2)
    counted = storage_report(three)
    groups = {(group.by, group.name): group for group in counted.groups}
    assert {by for by, _ in groups} == {"tenant", "method", "backbone", "depth", "dtype"}
    assert (groups["tenant", "acme"].tasks, groups["tenant", ""].tasks) == (1, 3)
    assert groups["tenant", "acme"].unique_nbytes == three.resolve("acme/cars").manifest_nbytes
    backbones = sum(backbone.stored_nbytes for backbone in counted.backbones)
    for by in ("method", "backbone", "dtype"):
        (group,) = (group for group in counted.groups if group.by == by)
        assert group.nbytes == group.unique_nbytes == counted.places.live_nbytes - backbones
    assert [group.name for group in counted.groups if group.by == "depth"] == ["2 of 4", "4 of 4"]


def test_metadata_is_what_is_neither_a_tensor_nor_garbage(three: Store) -> None:
    counted = storage_report(three)
    tensors = {blob for version in three.versions() for blob in version.manifest.blobs[1:3]}
    headers = sum({(row.task, row.header_nbytes): row.header_nbytes for row in counted.versions}.values())
    weights = counted.backbones[0].weights_nbytes
    assert counted.payload_nbytes < sum(blob.nbytes for blob in tensors) < counted.payload_nbytes + headers
    assert counted.metadata_nbytes + counted.payload_nbytes + weights == counted.total_nbytes


def test_a_removed_version_is_reclaimable_and_a_lease_holds_its_blobs(three: Store) -> None:
    gone = three.resolve("flowers:1")
    alone = storage_report(three).versions[2].freed_if_deleted_nbytes
    three.remove("flowers:1")
    three.catalogue.lease("a", [gone.digest], holder="publish", expires_at=2**33, served=False)
    places = storage_report(three).places
    assert places.reclaimable_nbytes == places.removed_nbytes == alone
    assert places.leased_nbytes == gone.manifest_nbytes
    assert collect_garbage(three, grace_s=0).freed_nbytes == alone - gone.manifest_nbytes


def test_facts_that_are_kept_give_the_same_report_and_read_no_file_again(three: Store) -> None:
    known: dict[str, object] = {}
    first = storage_report(three, known=known)
    read = []
    three.backend.read_prefix = lambda key, nbytes: read.append((key, nbytes))
    assert storage_report(three, known=known) == first
    assert read == []


def test_the_floating_point_operations_of_a_block_are_those_that_torch_counts(three: Store) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = toy_model()
    model.blocks[0].attn.fused_attn = False  # the counter knows the two products, not the fused call
    tokens = torch.zeros(1, 17, DIM)
    with FlopCounterMode(display=False) as counter:
        model.blocks[0](tokens)
    counted = storage_report(three)
    assert counted.backbones[0].block_flops == counter.get_total_flops()
    assert counted.run_flops == counted.run_blocks * counter.get_total_flops()
    assert counted.tasks[1].saved_by_cut_flops == 2 * counter.get_total_flops()


@pytest.mark.parametrize("role", ["manifest_blob", "adapter", "head"])
@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_what_cannot_be_read_is_named_and_the_rest_is_counted(three: Store, role: str, damage: str) -> None:
    version = three.resolve("birds")
    blob = version.manifest_blob if role == "manifest_blob" else getattr(version.manifest, role).weights
    path = Path(three.blobs.locate(blob))
    path.chmod(0o644)
    path.unlink() if damage == "gone" else path.write_bytes(b"x" * blob.nbytes)
    counted = storage_report(three)
    check_identity(counted, three.root)
    birds = counted.tasks[0]
    assert birds.unknown_nbytes == version.nbytes - version.manifest_nbytes
    assert [problem.subject for problem in counted.problems if "divided" in problem.problem] == ["birds:1"]
    assert any(blob.sha256 in problem.subject + problem.problem for problem in counted.problems)
    assert (counted.comparison.tasks, counted.comparison.left_out) == (2, 1)
    assert birds.freed_if_deleted_nbytes == version.nbytes - (blob.nbytes if damage == "gone" else 0)


def test_a_manifest_of_a_newer_format_is_counted_and_not_divided(three: Store) -> None:
    version = three.resolve("birds")
    newer = three.blobs.put(version.manifest.to_json().replace(b'"format":%d' % MANIFEST_FORMAT, b'"format":9'))
    with sqlite3.connect(three.root / "catalogue.sqlite") as connection:
        connection.execute("UPDATE versions SET digest = ? WHERE task = 'birds'", (newer.sha256,))
        connection.execute("UPDATE named SET digest = ? WHERE digest = ?", (newer.sha256, version.digest))
    counted = storage_report(three)
    check_identity(counted, three.root)
    assert f"format 9, this onetrunk reads up to {MANIFEST_FORMAT}: upgrade onetrunk" in counted.problems[0].problem


def test_a_damaged_record_of_a_backbone_leaves_its_tasks_out_of_the_comparison(three: Store) -> None:
    row = three.queries.backbones()[0]
    path = Path(three.backend.locate(f"blobs/sha256/{row.record[:2]}/{row.record}"))
    path.chmod(0o644)
    path.write_bytes(b"{}")
    counted = storage_report(three)
    check_identity(counted, three.root)
    assert counted.problems[0].subject == "backbone toy/vit"
    assert (counted.comparison.tasks, counted.comparison.left_out, counted.run_flops) == (0, 3, 0)


def see_what_may_be_seen(root: Path, hidden: Path) -> None:
    """Count as a user who may not open one blob and one folder of blobs."""
    with ReadOnlyStore.open(root) as store:
        counted = storage_report(store)
    told = "\n".join(f"{problem.subject} {problem.problem}" for problem in counted.problems)
    assert f"{hidden} cannot be listed" in told
    assert "cannot be read (Permission denied)" in told
    assert "cannot be seen by this user" in told
    assert "is missing" not in told
    places = counted.places
    seen = sum(p.stat().st_size for p in root.rglob("*") if p.is_file() and hidden not in p.parents)
    assert places.physical_nbytes == seen


def test_blobs_that_this_user_may_not_read_are_named_and_not_called_missing(three: Store) -> None:
    version = three.resolve("birds")
    three.release_connections()
    for path in (three.root, *three.root.parents):
        path.chmod(path.stat().st_mode | 0o055)
    unreadable = Path(three.blobs.locate(version.manifest.head.weights))
    hidden = Path(three.blobs.locate(version.manifest.adapter.config)).parent
    unreadable.chmod(0)
    mode = hidden.stat().st_mode
    hidden.chmod(0)
    try:
        assert in_a_child(lambda: see_what_may_be_seen(three.root, hidden), user=65534) == 0
    finally:
        hidden.chmod(mode)


def test_a_store_that_others_change_all_the_time_says_so(three: Store) -> None:
    listed = three.backend.list

    def publish_and_list(*arguments: object, **options: object) -> object:
        three.set_tag("birds", "seen", str(next(numbers)))
        return listed(*arguments, **options)

    numbers = itertools.count()
    three.backend.list = publish_and_list
    counted = storage_report(three)
    assert counted.changed
    assert next(numbers) == 3
    assert not account_of(ReadOnlyStore.open(three.root)).report.changed
