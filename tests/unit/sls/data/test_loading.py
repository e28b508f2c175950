from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sls.data.dataset import Split
from sls.data.embedded import EMBEDDED, PARTS, render
from sls.data.loading import load_dataset
from store.errors import DataError


def save_image(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path)


def make_folder(root: Path, parts: dict[str, int], classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for part, count in parts.items():
        for k, name in enumerate(classes):
            for i in range(count):
                save_image(root / part / name / f"{i}.png", (i, 100 * k, len(part)))
    return root


def make_npz(path: Path, **changes: object) -> str:
    random = np.random.default_rng(0)
    arrays = {
        "train_x": random.integers(0, 256, (20, 8, 8, 3), np.uint8),
        "train_y": np.arange(20) % 2,
        "test_x": random.integers(0, 256, (6, 8, 8, 3), np.uint8),
        "test_y": np.arange(6) % 2,
        "classes": np.array(["cat", "dog"]),
    }
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return str(path)


# -------------------------------------------------------------------------------------------------- embedded datasets


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_dataset_is_drawn_the_same_every_time(name):
    once, again = render(name, "train", 30), render(name, "train", 60)
    assert all(np.array_equal(a, b) for a, b in zip(once[0], again[0], strict=False))
    assert np.array_equal(once[1], again[1][:30])


@pytest.mark.parametrize("name", EMBEDDED)
def test_no_image_of_an_embedded_dataset_is_in_two_parts_or_twice(name):
    dataset = load_dataset(f"onetrunk/{name}", limit=100)
    digests = [digest for part in (dataset.train, dataset.validation, dataset.test) for digest in part.digests]
    assert len(set(digests)) == len(digests) == 300
    assert dataset.train.image(0).size == (64, 64)


def test_a_digit_is_a_scan_that_no_other_part_holds():
    scans = {part: {image[::8, ::8].tobytes() for image in render("digits", part, 100)[0]} for part in PARTS}
    assert not scans["train"] & scans["test"]
    assert not scans["train"] & scans["validation"]


def test_another_seed_draws_other_images():
    assert load_dataset("onetrunk/count", limit=6).digest != load_dataset("onetrunk/count", limit=6, seed=1).digest


def test_an_unknown_embedded_dataset_is_refused_with_the_names_of_all():
    with pytest.raises(DataError, match=r"onetrunk/digit'.*digits, letter"):
        load_dataset("onetrunk/digit")


# ----------------------------------------------------------------------------------------------------------- folders


def test_a_folder_of_classes_is_parted_three_ways_class_by_class(tmp_path):
    dataset = load_dataset(str(make_folder(tmp_path / "pets", {".": 10})))
    assert dataset.classes == ("cat", "dog")
    assert [np.bincount(part.labels).tolist() for part in (dataset.train, dataset.validation, dataset.test)] == [
        [7, 7],
        [1, 1],
        [2, 2],
    ]


def test_the_parts_depend_on_the_images_and_not_on_their_names(tmp_path):
    one = load_dataset(str(make_folder(tmp_path / "one", {".": 10})))
    other = make_folder(tmp_path / "other", {".": 10})
    for path in sorted(other.rglob("*.png")):
        path.rename(path.with_name(f"renamed-{9 - int(path.stem)}.png"))
    assert load_dataset(str(other)).digest == one.digest


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_a_folder_with_parts_keeps_them(tmp_path, validation):
    dataset = load_dataset(str(make_folder(tmp_path / "pets", {"train": 5, validation: 3, "test": 4})))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [10, 6, 8]


def test_a_class_of_two_images_trains_on_one_and_tests_on_the_other(tmp_path):
    dataset = load_dataset(str(make_folder(tmp_path / "pets", {".": 2})))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [2, 0, 2]


def test_a_folder_with_one_class_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"1 class folder \(cat\): give at least two"):
        load_dataset(str(make_folder(tmp_path / "pets", {".": 4}, ("cat",))))


def test_a_class_with_one_image_is_refused_by_name(tmp_path):
    root = make_folder(tmp_path / "pets", {".": 4})
    save_image(root / "newt" / "only.png", (1, 2, 3))
    with pytest.raises(DataError, match=r"class 'newt' has 1 image, at least 2 needed"):
        load_dataset(str(root))


def test_an_empty_class_is_refused_by_name(tmp_path):
    root = make_folder(tmp_path / "pets", {"train": 4, "test": 4})
    (root / "train" / "newt").mkdir()
    with pytest.raises(DataError, match=r"'newt' has 0 image"):
        load_dataset(str(root))


def test_a_class_that_only_the_test_part_has_is_refused(tmp_path):
    root = make_folder(tmp_path / "pets", {"train": 4, "test": 4})
    save_image(root / "test" / "newt" / "only.png", (1, 2, 3))
    with pytest.raises(DataError, match="'newt', which is not in train"):
        load_dataset(str(root))


def test_an_unreadable_image_is_named(tmp_path):
    root = make_folder(tmp_path / "pets", {".": 4})
    (root / "cat" / "torn.png").write_bytes(b"\x89PNG torn")
    part = Split((root / "cat" / "torn.png",), np.zeros(1, np.int64))
    with pytest.raises(DataError, match=r"torn\.png: .*repair or remove the file"):
        part.image(0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "1"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "image.png")
    image = Split((tmp_path / "image.png",), np.zeros(1, np.int64)).image(0)
    assert (image.mode, image.size) == ("RGB", (5, 4))


def test_an_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 4)).save(tmp_path / "image.jpg", exif=exif)
    assert Split((tmp_path / "image.jpg",), np.zeros(1, np.int64)).image(0).size == (4, 5)


# ------------------------------------------------------------------------------------------------------ arrays, names


def test_an_npz_keeps_its_test_part_and_gives_a_fifth_of_training_for_validation(tmp_path):
    dataset = load_dataset(make_npz(tmp_path / "pets.npz"))
    assert (dataset.name, dataset.classes) == ("pets", ("cat", "dog"))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [16, 4, 6]


def test_grey_arrays_become_rgb(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    dataset = load_dataset(make_npz(tmp_path / "grey.npz", train_x=grey))
    assert dataset.train.image(0).mode == "RGB"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_y": np.zeros(3, int)}, "3 labels for images"),
        ({"train_y": np.zeros(20, int)}, "class 'dog' has 0 image"),
        ({"train_y": np.arange(20) % 3}, "labels reach beyond 0..1"),
        ({"test_x": None}, "no array 'test_x'"),
        ({"train_x": np.zeros((20, 8, 8, 3), np.float32)}, "images of float32"),
        ({"classes": np.array(["cat", "cat"])}, "class names repeat"),
        ({"classes": np.array(["cat"])}, "1 class"),
        ({"classes": np.array(["cat", "dog"], dtype=object)}, "not a readable .npz"),
        ({"train_x": np.zeros((0, 8, 8, 3), np.uint8), "train_y": np.zeros(0, int)}, "has 0 image"),
        ({"test_x": np.zeros((0, 8, 8, 3), np.uint8), "test_y": np.zeros(0, int)}, "no test image"),
    ],
)
def test_an_npz_that_is_not_a_dataset_is_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load_dataset(make_npz(tmp_path / "bad.npz", **changes))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no zip"])
def test_a_torn_npz_is_refused(tmp_path, content):
    (tmp_path / "torn.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_dataset(str(tmp_path / "torn.npz"))


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "missing.npz", "torch/no_such_set"])
def test_a_source_that_is_nowhere_is_refused(source):
    with pytest.raises(DataError, match=r"no data|no file|timm cannot read"):
        load_dataset(source)


def test_a_limit_takes_the_classes_in_turn(tmp_path):
    dataset = load_dataset(make_npz(tmp_path / "pets.npz"), limit=5)
    assert [np.bincount(part.labels).tolist() for part in (dataset.train, dataset.validation, dataset.test)] == [
        [3, 2],
        [2, 2],
        [3, 2],
    ]


def test_a_dataset_that_timm_names_is_loaded(tmp_path):
    make_folder(tmp_path, {"train": 5, "test": 4})
    dataset = load_dataset("torch/image_folder", root=tmp_path)
    assert (dataset.name, dataset.classes) == ("torch-image_folder", ("cat", "dog"))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [8, 2, 8]


def test_a_dataset_without_a_test_part_is_parted_and_never_tested_on_its_training_images(tmp_path):
    dataset = load_dataset("torch/image_folder", root=make_folder(tmp_path, {".": 10}))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [14, 2, 4]
    assert not set(dataset.train.digests) & set(dataset.test.digests)


def test_content_order_does_not_depend_on_the_order_of_the_rows():
    images, labels = render("count", "train", 24)
    shuffle = np.random.default_rng(0).permutation(24)
    straight = Split(images, labels)
    shuffled = Split(tuple(images[i] for i in shuffle), labels[shuffle])
    assert [straight.digests[i] for i in straight.content_order()] == [
        shuffled.digests[i] for i in shuffled.content_order()
    ]


def test_a_path_is_a_folder_or_a_file_and_never_a_name(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "pets", {".": 10})
    assert load_dataset(root).digest == load_dataset(str(root)).digest
    arrays = make_npz(tmp_path / "pets.npz")
    assert load_dataset(Path(arrays)).digest == load_dataset(arrays).digest
    monkeypatch.chdir(tmp_path)
    for name in ("onetrunk/digits", "torch/cifar10"):
        with pytest.raises(DataError, match=f"no data at '{name}'"):
            load_dataset(Path(name))
