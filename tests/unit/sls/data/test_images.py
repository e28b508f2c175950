"""Images as people have them: read as Pillow reads them, or refused in one line that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sls.data.dataset import Split
from sls.data.loading import load_dataset
from store.errors import DataError
from store.records.backbone import Preprocessing
from store.weights.preprocessing import make_transform

ORIENTATION = 0x0112
TRANSFORM = make_transform(Preprocessing(16, 16, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "center"))


def picture(seed: int = 0, size: tuple[int, int] = (9, 7)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def with_alpha() -> Image.Image:
    image = picture()
    image.putalpha(Image.fromarray(np.linspace(0, 255, 63).astype(np.uint8).reshape(7, 9)))
    return image


def read(path: Path) -> Image.Image:
    return Split((path,), np.zeros(1, np.int64)).image(0)


def by_pillow(path: Path) -> np.ndarray:
    """The slow twin."""
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


# ---------------------------------------------------------------------------------------------- what is read, and how

PALETTE = picture().quantize(8)
READ: dict[str, tuple[str, Callable[[], Image.Image], dict[str, object]]] = {
    "grey": ("a.png", lambda: picture().convert("L"), {}),
    "grey JPEG": ("a.jpg", lambda: picture().convert("L"), {}),
    "grey with alpha": ("a.png", lambda: with_alpha().convert("LA"), {}),
    "black and white": ("a.png", lambda: picture().convert("1"), {}),
    "RGBA": ("a.png", with_alpha, {}),
    "RGBA WebP": ("a.webp", with_alpha, {"lossless": True}),
    "palette": ("a.png", lambda: PALETTE, {}),
    "palette with a transparent colour": ("a.png", lambda: PALETTE, {"transparency": 3}),
    "palette BMP": ("a.bmp", lambda: PALETTE, {}),
    "CMYK": ("a.jpg", lambda: picture().convert("CMYK"), {}),
    "progressive JPEG": ("a.jpeg", picture, {"progressive": True}),
    "JPEG in an upper case name": ("A.JPG", picture, {}),
    "JPEG in a PNG's name": ("a.png", picture, {"format": "JPEG"}),
    "a name with spaces and accents": ("un été à la mer 犬.png", picture, {}),
}


@pytest.mark.parametrize(("name", "make", "options"), READ.values(), ids=list(READ))
def test_an_image_has_the_pixels_that_pillow_gives(tmp_path, name, make, options):
    make().save(tmp_path / name, **options)
    assert np.array_equal(np.asarray(read(tmp_path / name)), by_pillow(tmp_path / name))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_an_image_is_upright_whichever_way_the_camera_was_held(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"held.{kind}"
    picture().save(path, exif=exif)
    pixels = read(path)
    assert np.array_equal(np.asarray(pixels), by_pillow(path))
    assert pixels.size == ((7, 9) if orientation > 4 else (9, 7))


def test_transparency_is_dropped_as_when_it_is_served_and_shows_the_colour_below(tmp_path):
    image = picture()
    image.putalpha(0)
    image.save(tmp_path / "clear.png")
    assert np.array_equal(np.asarray(read(tmp_path / "clear.png")), np.asarray(picture()))


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    shades = np.array([[0, 256, 257, 30000], [32768, 40000, 65279, 65535]], dtype=np.uint16)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    pixels = np.asarray(read(tmp_path / "deep.png"))
    assert pixels[..., 0].tolist() == [[shade * 255 // 65535 for shade in row] for row in shades.tolist()]
    assert (pixels == pixels[..., :1]).all()


def test_images_of_mixed_sizes_and_kinds_make_one_batch_each_as_it_is_alone(tmp_path):
    pictures = {"wide.png": picture(1, (40, 10)), "tall.jpg": picture(2, (10, 40)), "tiny.png": picture(3, (1, 1))}
    pictures |= {"grey.png": picture(4).convert("L"), "clear.png": with_alpha()}
    for name, image in pictures.items():
        image.save(tmp_path / name)
    split = Split((*(tmp_path / name for name in pictures), np.asarray(picture(5, (30, 20)))), np.zeros(6, np.int64))
    batch = split.inputs(range(6), TRANSFORM)
    assert batch.shape == (6, 3, 16, 16)
    for row, name in zip(batch, pictures, strict=False):
        assert (row == TRANSFORM(Image.fromarray(by_pillow(tmp_path / name)))).all()


def save_all(root: Path, names: list[str], make: Callable[[int], Image.Image] = picture) -> Path:
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        make(index).save(root / name)
    return root


def numbered(*parents: str, count: int = 4) -> list[str]:
    return [f"{parent}/{index}.png" for parent in parents for index in range(count)]


def test_a_data_set_that_timm_reads_is_upright_too(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for seed, name in enumerate(numbered("train/a", "train/b", "test/a", "test/b", count=3)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(tmp_path / name, exif=exif)
    dataset = load_dataset("torch/image_folder", root=tmp_path)
    assert {dataset.test.image(row).size for row in range(6)} == {(7, 9)}


def test_a_folder_that_timm_itself_reads_keeps_the_shades_of_sixteen_bit_grey(tmp_path):
    def deep(seed: int) -> Image.Image:
        return Image.fromarray(np.full((4, 4), 257 * (seed + 1), dtype=np.uint16))

    root = save_all(tmp_path, numbered("train/a", "train/b", "test/a", "test/b", count=3), deep)
    dataset = load_dataset("timm/folder", root=root)
    assert sorted(int(dataset.test.images[row].max()) for row in range(6)) == [7, 8, 9, 10, 11, 12]


def test_classes_with_spaces_and_letters_of_any_script_keep_their_names(tmp_path):
    dataset = load_dataset(str(save_all(tmp_path / "mes images", numbered("chat noir", "été", "犬"))))
    assert dataset.classes == ("chat noir", "été", "犬")
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 12


def test_what_is_no_image_in_a_class_folder_is_passed_over(tmp_path):
    root = save_all(tmp_path / "pets", numbered("cat", "dog"))
    (root / "cat" / "notes.txt").write_text("none")
    (root / "cat" / "._0.png").write_bytes(b"a Mac's shadow of 0.png")
    (root / "cat" / "folder.png").mkdir()
    (root / ".cache").mkdir()
    dataset = load_dataset(str(root))
    assert len(dataset.train) + len(dataset.test) == 8


# ------------------------------------------------------------------------------------------------ files that are torn


def torn_png(path: Path) -> None:
    picture(0, (60, 60)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def torn_jpeg(path: Path) -> None:
    picture(0, (60, 60)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:1000])


def broken_link(path: Path) -> None:
    path.symlink_to(path.parent / "gone.png")


TORN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half a PNG": torn_png,
    "half a JPEG": torn_jpeg,
    "text": lambda path: path.write_text("<html>not found</html>"),
    "a GIF in a PNG's name": lambda path: picture().save(path, format="GIF"),
    "a link to nothing": broken_link,
}


@pytest.mark.parametrize("tear", TORN.values(), ids=list(TORN))
def test_a_file_that_cannot_be_decoded_is_named_with_the_remedy(tmp_path, tear):
    path = tmp_path / "un été.png"
    tear(path)
    with pytest.raises(DataError, match=r"un été\.png: .*; repair or remove the file") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_link_to_nothing_is_named_already_when_the_task_is_loaded(tmp_path):
    root = save_all(tmp_path / "pets", numbered("cat", "dog"))
    broken_link(root / "cat" / "lost.png")
    with pytest.raises(DataError, match=r"cat/lost\.png: .*; repair or remove the file"):
        load_dataset(str(root))


# ------------------------------------------------------------------------------------ folders that are no dataset

FOLDERS: dict[str, tuple[list[str], str]] = {
    "nothing": ([], r"has 0 class folder \(\): give at least two"),
    "images without class folders": (["0.png", "1.png"], "has 0 class folder"),
    "one class": (numbered("cat"), r"has 1 class folder \(cat\)"),
    "a class of one image": ([*numbered("cat"), "dog/0.png"], "class 'dog' has 1 image, at least 2 needed"),
    "a class of GIFs": ([*numbered("cat"), "dog/0.gif"], r"dog/0\.gif has an unsupported format: convert it"),
    "one TIFF among PNGs": ([*numbered("cat", "dog"), "cat/4.TIFF"], r"cat/4\.TIFF has an unsupported format"),
    "a class that is only tested": (
        [*numbered("train/cat", "train/dog", "test/cat"), "test/emu/0.png"], "class 'emu', which is not in train",
    ),
    "two folders to watch": (
        numbered("train/cat", "train/dog", "val/cat", "validation/cat"), "has both val and validation: remove one",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("names", "message"), FOLDERS.values(), ids=list(FOLDERS))
def test_a_folder_that_is_not_a_dataset_is_refused_with_the_remedy(tmp_path, names, message):
    root = tmp_path / "my pets"
    root.mkdir()
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(save_all(root, names)))
    assert "\n" not in str(caught.value)


def test_a_folder_of_classes_may_be_called_npz(tmp_path):
    assert len(load_dataset(str(save_all(tmp_path / "pets.npz", numbered("cat", "dog")))).classes) == 2
