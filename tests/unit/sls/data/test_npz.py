"""Labels and pixels in arrays: a dataset, or one line that names the file, the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sls.data.dataset import Dataset, Split
from sls.data.loading import load_dataset
from store.errors import DataError

LABELS = np.arange(20) % 2
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)


def save_npz(folder: Path, **changes: object) -> str:
    arrays = {"train_x": PIXELS, "train_y": LABELS, "test_x": PIXELS[::-1][:6] // 2, "test_y": LABELS[:6]}
    path = folder / "my pets.npz"
    np.savez(path, **{"classes": np.array(["cat", "dog"])} | arrays | changes)
    return str(path)


SAME = {
    "bytes": LABELS.astype(np.uint8),
    "truth values": LABELS.astype(bool),
    "whole floats": LABELS.astype(np.float32),
    "names": np.array(["cat", "dog"])[LABELS],
    "names as bytes": np.array([b"cat", b"dog"])[LABELS],
}


@pytest.mark.parametrize("labels", SAME.values(), ids=list(SAME))
def test_labels_of_any_dtype_that_says_the_class_are_the_same_task(tmp_path, labels):
    plain = load_dataset(save_npz(tmp_path))
    dataset = load_dataset(save_npz(tmp_path, train_y=labels))
    assert dataset.digest == plain.digest
    assert dataset.train.labels.dtype == np.int64


ARRAYS: dict[str, tuple[dict[str, object], str]] = {
    "too few labels": ({"train_y": LABELS[:3]}, r"train: 3 labels for images \(20, 8, 8, 3\)"),
    "too many labels": ({"test_y": LABELS}, "test: 20 labels for images"),
    "halves": ({"train_y": LABELS + 0.5}, r"train: label 0\.5 is not a whole number: regression is not supported"),
    "NaN": ({"train_y": np.where(LABELS, np.nan, 0)}, r"label nan is not a class: labels reach beyond 0\.\.1"),
    "infinity": ({"train_y": np.where(LABELS, np.inf, 0)}, "label inf is not a class"),
    "below 0": ({"train_y": LABELS - 1}, "label -1 is not a class"),
    "beyond the classes": ({"test_y": LABELS[:6] + 1}, "test: label 2 is not a class"),
    "beyond int64": ({"train_y": LABELS.astype(np.uint64) + 2**63}, "label 9223372036854775808 is not a class"),
    "a name that is no class": ({"train_y": np.array(["cat", "cow"])[LABELS]}, "label 'cow' is not among the classes"),
    "one-hot": ({"train_y": np.eye(2)[LABELS]}, r"labels of shape \(20, 2\): give one class index for each"),
    "many-hot": ({"train_y": np.ones((20, 2))}, "not one-hot; tasks of several labels an image are not supported"),
    "one label": ({"train_y": np.int64(1)}, r"labels of shape \(\)"),
    "complex labels": ({"train_y": LABELS * 1j}, "labels of complex128: give class indices or class names"),
    "dates": ({"train_y": LABELS.astype("datetime64[s]")}, r"labels of datetime64\[s\]"),
    "floats": ({"train_x": PIXELS / 255}, r"images of float64 \(20, 8, 8, 3\): give uint8"),
    "NaN pixels": ({"test_x": np.full((6, 8, 8, 3), np.nan)}, "test: images of float64"),
    "16 bits": ({"train_x": PIXELS.astype(np.uint16)}, "images of uint16"),
    "channels first": ({"train_x": PIXELS.transpose(0, 3, 1, 2)}, r"\(20, 3, 8, 8\): give uint8, n x H x W or n x H"),
    "four channels": ({"train_x": np.zeros((20, 8, 8, 4), np.uint8)}, r"images of uint8 \(20, 8, 8, 4\)"),
    "rows": ({"train_x": PIXELS.reshape(20, -1)}, r"images of uint8 \(20, 192\)"),
    "one number": ({"train_x": np.uint8(1)}, r"20 labels for images \(\)"),
    "no height": ({"train_x": PIXELS[:, :0]}, r"image 0 is uint8 \(0, 8, 3\)"),
    "pickled": ({"train_x": np.array([None] * 20)}, r"not a readable \.npz"),
    "classes in two dimensions": ({"classes": np.array([["cat", "dog"]])}, r"classes of <U3 \(1, 2\)"),
    "one class's letters": ({"classes": np.array("cat")}, r"classes of <U3 \(\)"),
    "classes of floats": ({"classes": np.array([0.5, 1])}, "classes of float64"),
    "a class without a name": ({"classes": np.array(["cat", " "])}, "class name ' ' is not one line"),
    "a name of two lines": ({"classes": np.array(["cat", "d\nog"])}, r"class name 'd\\nog' is not one line"),
    "more names than classes": ({"classes": np.array(["cat", "dog", "emu"])}, "class 'emu' has 0 image"),
}


@pytest.mark.parametrize(("changes", "message"), ARRAYS.values(), ids=list(ARRAYS))
def test_arrays_that_are_not_a_dataset_are_refused_with_the_file_and_the_remedy(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(save_npz(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_compressed_file_with_any_byte_changed_is_refused_or_is_the_same_dataset(tmp_path):
    plain = load_dataset(save_npz(tmp_path)).digest
    path = tmp_path / "small.npz"
    np.savez_compressed(path, **dict(np.load(tmp_path / "my pets.npz")))
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 53):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert load_dataset(str(path)).digest == plain
        except DataError as error:
            refused += "\n" not in str(error)
    assert refused > len(range(0, len(whole), 53)) / 2


def test_one_array_in_a_npz_name_is_refused(tmp_path):
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, LABELS)
    with pytest.raises(DataError, match=r"one\.npz is not a readable \.npz"):
        load_dataset(str(tmp_path / "one.npz"))


# --------------------------------------------------------------------------------------------------- parts made by hand

IMAGE = np.zeros((4, 5, 3), np.uint8)
PARTS: dict[str, tuple[object, object, str]] = {
    "grey": (np.zeros((4, 5), np.uint8), np.zeros(1, np.int64), r"image 0 is uint8 \(4, 5\): give RGB pixels"),
    "alpha": (np.zeros((4, 5, 4), np.uint8), np.zeros(1, np.int64), r"image 0 is uint8 \(4, 5, 4\)"),
    "NaN": (np.full((4, 5, 3), np.nan), np.zeros(1, np.int64), "image 0 is float64"),
    "no pixels": (IMAGE[:0], np.zeros(1, np.int64), r"image 0 is uint8 \(0, 5, 3\)"),
    "a list": ([[1]], np.zeros(1, np.int64), "image 0 is"),
    "labels of floats": (IMAGE, np.zeros(1), r"labels of float64 \(1,\): give an int64 array"),
    "labels in two dimensions": (IMAGE, np.zeros((1, 1), np.int64), r"labels of int64 \(1, 1\)"),
    "labels in a list": (IMAGE, [0], "give an int64 array with one class index"),
    "too many labels": (IMAGE, np.zeros(2, np.int64), "2 labels for 1 images"),
}


@pytest.mark.parametrize(("image", "labels", "message"), PARTS.values(), ids=list(PARTS))
def test_a_part_that_is_no_images_with_labels_is_refused(image, labels, message):
    with pytest.raises(DataError, match=message):
        Split((image,), labels)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_refused_in_any_part(label):
    good = Split((IMAGE, IMAGE), np.arange(2))
    for place in range(3):
        parts = [good] * 3
        parts[place] = Split((IMAGE, IMAGE, IMAGE), np.array([0, 1, label]))
        with pytest.raises(DataError, match=r"pets: labels reach beyond 0\.\.1"):
            Dataset("pets", ("cat", "dog"), *parts)
