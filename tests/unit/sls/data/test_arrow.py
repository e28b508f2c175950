"""What Hugging Face's `datasets` 5.2.0 wrote (tests/golden/huggingface.tar.gz), and tables that are odd."""

from __future__ import annotations

import json
import re
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from support.odd_files import encoded
from support.odd_sources import picture
from support.source_strings import ROOT

from sls.data.loading import load_dataset
from store.errors import DataError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("huggingface")
    with tarfile.open(ROOT / "tests" / "golden" / "huggingface.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", ["saved", "pq"])
def test_splits_that_were_saved_are_kept_with_the_names_of_the_classes(written, name):
    dataset = load_dataset(written / name)
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (10, 4)
    random = np.random.default_rng(100)
    assert np.array_equal(np.asarray(dataset.test.image(0)), random.integers(0, 256, (6, 7, 3), np.uint8))


def test_one_saved_split_is_divided(written):
    dataset = load_dataset(written / "single")
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 6


def test_a_save_that_points_out_of_its_folder_stays_in_it(written, tmp_path):
    state = json.loads((written / "single" / "state.json").read_text())
    state["_data_files"] = [{"filename": f"../..{written}/single/data-00000-of-00001.arrow"}]
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow cannot be read"):
        load_dataset(tmp_path)


IMAGES = [encoded(index) for index in range(8)]
LABELS = ["cat", "dog"] * 4
TABLES: dict[str, tuple[dict[str, list[object]], str]] = {
    "no label": ({"image": IMAGES}, "none for the label"),
    "no image": ({"label": LABELS}, "none for the image"),
    "two labels": ({"image": IMAGES, "label": LABELS, "class": LABELS}, "label and class, both for the label"),
    "several labels an image": ({"image": IMAGES, "label": [["cat"]] * 8}, "has several values"),
    "a yes or no for each class": (
        {"image": IMAGES, "cat": [True, False] * 4, "dog": [False, True] * 4},
        "columns cat, dog say yes or no, one for each class: tasks of several labels",
    ),
    "a measurement": ({"image": IMAGES, "label": [0.5] * 8}, "regression is not supported"),
    "pixels": ({"image": [[1, 2]] * 8, "label": LABELS}, r"\[1, 2\] is not an image"),
    "a torn image": ({"image": [IMAGES[0][:90], *IMAGES[1:]], "label": LABELS}, "row 0: image cannot be decoded"),
    "a file that is missing": ({"path": ["gone.png"] * 8, "label": LABELS}, "'gone.png' is not an image"),
    "an unknown split": ({"image": IMAGES, "label": LABELS, "split": ["x"] * 8}, "split 'x' is unknown"),
}


@pytest.mark.parametrize(("columns", "message"), TABLES.values(), ids=list(TABLES))
def test_a_table_that_is_not_a_dataset_is_refused_in_one_line(tmp_path, columns, message):
    parquet.write_table(pa.table(columns), tmp_path / "pets.parquet")
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(tmp_path / "pets.parquet")
    assert str(caught.value).isprintable()


def test_a_table_of_paths_is_read_and_rows_without_a_label_are_counted(tmp_path):
    for index in range(8):
        picture(index).save(tmp_path / f"{index}.png")
    columns = {"path": [f"{index}.png" for index in range(8)], "label": [*LABELS[:7], None]}
    parquet.write_table(pa.table(columns), tmp_path / "pets.parquet")
    dataset = load_dataset(tmp_path / "pets.parquet")
    assert dataset.classes == ("cat", "dog")
    assert re.search(r"without a label: 1 \(.*row 7\)", dataset.notes[0])


@pytest.mark.parametrize("at", range(0, 3000, 97))
def test_a_file_with_a_byte_changed_is_refused_or_read(written, tmp_path, at):
    data = bytearray((written / "single" / "data-00000-of-00001.arrow").read_bytes())
    data[at % len(data)] ^= 0xFF
    (tmp_path / "data.arrow").write_bytes(data)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    with suppress(DataError):
        assert len(load_dataset(tmp_path).classes) == 2
