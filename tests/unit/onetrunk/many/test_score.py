"""Predictions of many images: one row for each, the same as one by one, resumed from whole parts."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from support.toy_backbone import publish, tune

import sls.data.unlabelled as unlabelled
from onetrunk.many.score import ScoreSummary, score
from serving.runtime.offline import check_one_backbone
from serving.runtime.predictor import Predictor
from store.errors import BackboneMismatchError, ConflictError, DataError, InvalidSettingError, TaskNotFoundError
from store.registry.store import Store

COUNT = 7


@pytest.fixture
def shop(store: Store, tmp_path: Path) -> Store:
    for seed, task in enumerate(("flowers", "trees")):
        publish(store, tune(tmp_path / task, depth=2, seed=seed), task)
    publish(store, tune(tmp_path / "late", depth=4, target_modules=["blocks.3.mlp.fc1"]), "late", depth=4)
    return store


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Seven images in two folders, one of them torn, and a file that is none."""
    root = tmp_path / "pictures"
    (root / "b").mkdir(parents=True)
    chance = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = chance.integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("b" if number > 4 else "") / f"{number}.png")
    torn = root / "2.png"
    torn.write_bytes(torn.read_bytes()[:200])
    (root / "notes.txt").write_text("none")
    return root


def run(store: Store, data: Path, out: Path, *refs: str, **options: object) -> ScoreSummary:
    return score(store, refs or ("flowers",), data, out=out, workers=0, **options)


def test_every_image_gets_a_row_and_a_torn_one_its_error(shop, pictures, tmp_path):
    summary = run(shop, pictures, tmp_path / "out.jsonl", "flowers", "trees:1", "late", top=2, logits=True)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [*(f"{i}.png" for i in range(5)), "b/5.png", "b/6.png"]
    assert (summary.images, summary.failed, summary.resumed) == (7, 1, 0)
    assert "2.png: " in summary.problems[0]
    assert summary.notes == ("left out, not named as an image, or a link to a folder: 1 "
                             f"({pictures / 'notes.txt'})",)  # fmt: skip
    assert rows[2]["error"]
    assert rows[2]["flowers"] is None
    with Predictor(shop) as predictor:
        for row in [rows[0], *rows[3:]]:
            for ref in ("flowers", "trees:1", "late"):
                alone = predictor.predict(ref, pictures / row["image"])
                assert row[ref] == alone.top(1)[0].label
                assert row[f"{ref}.logits"] == pytest.approx(alone.logits, abs=0.05)
                assert [one["label"] for one in row[f"{ref}.top"]] == [one.label for one in alone.top(2)]
    # flowers and trees are adapted from the first block on, to depth 2; late in the fourth alone
    assert (summary.blocks, summary.shared, summary.cut) == (6 * 8, 0, 6 * 4)
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_tasks_share_the_blocks_that_none_of_them_adapts(shop, pictures, tmp_path):
    publish(shop, tune(tmp_path / "later", depth=4, target_modules=["blocks.3.mlp.fc2"]), "later", depth=4)
    summary = run(shop, pictures, tmp_path / "out.csv", "late", "later")
    assert (summary.blocks, summary.shared, summary.cut) == (6 * 5, 6 * 3, 0)


def test_the_formats_have_the_same_rows(shop, pictures, tmp_path):
    for suffix in ("jsonl", "csv", "parquet"):
        run(shop, pictures, tmp_path / f"out.{suffix}", "flowers", top=2)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "out.parquet")
    kept = table.to_pylist()
    assert [row["flowers"] for row in kept] == [row["flowers"] for row in rows]
    assert [row["flowers.score"] for row in kept] == [row["flowers.score"] for row in rows]
    assert json.loads(table.schema.metadata[b"onetrunk.versions"]) == {"flowers": shop.resolve("flowers").digest}
    cells = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [cell["flowers"] or None for cell in cells] == [row["flowers"] for row in rows]
    assert json.loads(cells[0]["flowers.top"]) == rows[0]["flowers.top"]


def packed(pictures: Path, folder: Path) -> Iterator[Path]:
    with tarfile.open(folder / "all.tar", "w") as tar:
        tar.add(pictures, "pictures")
    yield folder / "all.tar"
    images = [{"bytes": path.read_bytes(), "path": None} for path in sorted(pictures.rglob("*.png"))]
    parquet.write_table(pa.table({"image": images}), folder / "all.parquet", row_group_size=3)
    yield folder / "all.parquet"


def test_a_tar_and_a_parquet_file_have_the_same_predictions(shop, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "PART", 2)
    run(shop, pictures, tmp_path / "out.jsonl")
    plain = sorted(str(json.loads(line)["flowers"]) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    for number, source in enumerate(packed(pictures, tmp_path)):
        summary = run(shop, source, tmp_path / f"{number}.jsonl")
        lines = (tmp_path / f"{number}.jsonl").read_text().splitlines()
        assert sorted(str(json.loads(line)["flowers"]) for line in lines) == plain
        assert (summary.images, summary.failed) == (7, 1)


def test_a_run_that_was_ended_goes_on_with_its_versions_and_ends_with_the_same_bytes(shop, pictures, tmp_path, folder):
    whole = tmp_path / "whole.jsonl"
    listing = unlabelled.list_images(pictures, size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onetrunk.many.score.list_images", lambda _: listing)
        run(shop, pictures, whole)

        def stop(done: int, _: int) -> None:
            if done >= 4:
                raise KeyboardInterrupt

        out = tmp_path / "out.jsonl"
        with pytest.raises(KeyboardInterrupt):
            run(shop, pictures, out, progress=stop)
        assert not out.exists()
        publish(shop, folder, "flowers")  # a newer version is not taken by a run that has begun
        with pytest.raises(ConflictError, match="go on with `resume=True`"):
            run(shop, pictures, out)
        with pytest.raises(ConflictError, match="begun with other images"):
            run(shop, pictures, out, "trees", resume=True)
        summary = run(shop, pictures, out, resume=True)
    assert (summary.images, summary.resumed) == (7, 4)
    assert out.read_bytes() == whole.read_bytes()


def test_what_is_wrong_is_refused_before_anything_is_scored(shop, pictures, tmp_path):
    cases = [
        (InvalidSettingError, ("flowers",), pictures, "out.txt"),
        (InvalidSettingError, ("flowers", "flowers"), pictures, "out.csv"),
        (TaskNotFoundError, ("nobody",), pictures, "out.csv"),
        (DataError, ("flowers",), tmp_path / "nowhere", "out.csv"),
        (DataError, ("flowers",), tmp_path / "flowers" / "classes.txt", "out.csv"),
    ]
    for error, refs, data, name in cases:
        with pytest.raises(error):
            run(shop, data, tmp_path / name, *refs)
    (tmp_path / "there.csv").write_text("")
    with pytest.raises(InvalidSettingError, match="exists: remove it"):
        run(shop, pictures, tmp_path / "there.csv")
    shutil.rmtree(pictures)
    pictures.mkdir()
    with pytest.raises(DataError, match="has no image"):
        run(shop, pictures, tmp_path / "out.csv")


def test_tasks_of_two_backbones_are_refused(shop):
    version = shop.resolve("flowers")
    other = replace(version, manifest=replace(version.manifest, backbone="f" * 64))
    with pytest.raises(BackboneMismatchError, match="score them apart"):
        check_one_backbone([version, other])
