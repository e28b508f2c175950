"""Sources of images as people have them, odd or broken in one way each, and what must come of each."""

from __future__ import annotations

import os
import shutil
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

USED, COUNTED, REFUSED = "used", "used, the rest counted", "refused"


@dataclass(frozen=True)
class OddSource:
    """What it is, how it is made below a new folder, what comes of it, and words of what is said of it."""

    name: str
    make: Callable[[Path], object]
    outcome: str
    says: str = ""
    images: int = 16


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def save(path: Path, **options: object) -> Path:
    """Save a picture of its own for this path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = "/".join(path.parts[-4:]).rpartition("DATA")[2]
    picture(zlib.crc32(name.encode(errors="surrogateescape"))).save(path, **options)
    return path


def fill(*folders: Path, count: int = 8, suffix: str = ".png", **options: object) -> None:
    for folder in folders:
        for index in range(count):
            save(folder / f"{index}{suffix}", **options)


def pets(root: Path) -> Path:
    """Two classes of eight images."""
    fill(root / "cat", root / "dog")
    return root


def with_splits(root: Path, *names: str) -> Path:
    for name in names:
        fill(root / name / "cat", root / name / "dog", count=4)
    return root


def beside(*names: str, content: bytes = b"no image") -> Callable[[Path], object]:
    """The pets, and files of these names with this content."""

    def make(root: Path) -> None:
        pets(root)
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    return make


def with_images(*names: str, **options: object) -> Callable[[Path], object]:
    """The pets, and images in files of these names."""

    def make(root: Path) -> None:
        pets(root)
        for name in names:
            save(root / name, **options)

    return make


def copied(source: str, *targets: str) -> Callable[[Path], object]:
    def make(root: Path) -> None:
        pets(root)
        for target in targets:
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / source, root / target)

    return make


def recoded(root: Path) -> None:
    """The same pixels in a PNG and in a BMP, in two splits."""
    with_splits(root, "train", "test")
    Image.open(root / "train/cat/0.png").save(root / "test/cat/again.bmp")


def photographed_twice(root: Path) -> None:
    """A smooth picture in train, and the same as a JPEG in test."""
    with_splits(root, "train", "test")
    smooth = picture(5, (4, 4)).resize((64, 64), Image.Resampling.BICUBIC)
    smooth.save(root / "train/cat/photo.png")
    smooth.save(root / "test/cat/photo.jpg", quality=90)


def all_the_same(root: Path) -> None:
    pets(root)
    for index in range(1, 8):
        shutil.copy(root / "dog" / "0.png", root / "dog" / f"{index}.png")


def linked(root: Path) -> None:
    """A class folder that links to a folder of images elsewhere."""
    fill(root / "cat")
    fill(root.parent / "elsewhere")
    (root / "dog").mkdir()
    (root / "dog" / "more").symlink_to(root.parent / "elsewhere")


def looped(root: Path) -> None:
    pets(root)
    (root / "cat" / "again").symlink_to(root / "cat")


def piped(root: Path) -> None:
    pets(root)
    os.mkfifo(root / "cat" / "pipe.png")


def composed(root: Path) -> None:
    """One class name in two Unicode forms, one in each split."""
    for split, form in (("train", "NFC"), ("test", "NFD")):
        fill(root / split / unicodedata.normalize(form, "été"), root / split / "hiver", count=4)


def composed_twice(root: Path) -> None:
    fill(root / unicodedata.normalize("NFC", "été"), root / unicodedata.normalize("NFD", "été"), root / "hiver")


def not_utf8(root: Path) -> None:
    fill(root / "cat", root / os.fsdecode(b"dog\xff"))


def torn_many(root: Path) -> None:
    pets(root)
    for index in range(3):
        path = root / "cat" / f"{index}.png"
        path.write_bytes(path.read_bytes()[:100])


def trains(root: Path) -> None:
    """A class that is called train, as in CIFAR-100."""
    fill(root / "train", root / "bus")


def nested(root: Path) -> None:
    with_splits(root / "flowers", "train", "test")


def strip(root: Path) -> None:
    pets(root)
    Image.new("RGB", (10_000, 1)).save(root / "cat" / "strip.png")


def turned(root: Path) -> None:
    """A JPEG whose EXIF says that it lies on its side, and has a tag that Pillow cannot write back."""
    pets(root)
    on_its_side = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    wrong_type = b"\x01\x1a\x00\x02\x00\x00\x00\x01\xff\xff\xff\xff"
    exif = b"Exif\0\0MM\0*\x00\x00\x00\x08\x00\x02" + on_its_side + wrong_type + bytes(4)
    save(root / "cat" / "turned.jpg", exif=exif)


def listed_folder(root: Path) -> None:
    pets(root)
    (root / "cat" / "a\nb.png").write_bytes(b"torn")


ODD_FOLDERS = (
    OddSource("Jupyter's checkpoints", with_images("cat/.ipynb_checkpoints/0-checkpoint.png"), COUNTED, "hidden.*: 1 "),
    OddSource("thumbnails of a file manager", with_images("dog/.thumbnails/0.png", "cat/@eaDir/0.png"),
        COUNTED, ": 2 "),
    OddSource("what a Mac adds", beside("cat/._0.png", "cat/.DS_Store", "__MACOSX/cat/._0.png"), COUNTED, ": 3 "),
    OddSource("what Windows adds", beside("cat/Thumbs.db", "cat/desktop.ini"), COUNTED, ": 2 "),
    OddSource("notes among the images", beside("cat/notes.txt", "dog/labels.csv"), COUNTED, "not an image: 2 "),
    OddSource("files beside the class folders", beside("README.md", "LICENSE"),
        COUNTED, "beside the class folders: 2 "),
    OddSource("a video among the images", beside("cat/a.mp4", content=b"\0\0\0\x18ftypisom"), COUNTED, "a.mp4"),
    OddSource("suffixes .jfif .jpe .pjpeg", with_images("cat/a.jfif", "cat/b.jpe", "cat/c.pjpeg", format="JPEG"),
        USED, images=19),
    OddSource("suffixes .dib and .apng",
        lambda r: [pets(r), save(r / "cat/a.dib", format="BMP"), save(r / "cat/b.apng", format="PNG")],
        USED, images=18),
    OddSource("upper case suffixes", with_images("cat/A.PNG", "dog/B.JPG"), USED, images=18),
    OddSource("images without a suffix", with_images("cat/0001", "dog/0001", format="PNG"), USED, images=18),
    OddSource("images with a wrong suffix", with_images("cat/a.dat", "dog/b.png", format="JPEG"), USED, images=18),
    OddSource("a linked folder in a class", linked, USED),
    OddSource("a link that leads back", looped, COUNTED, "a link to a folder that it is in: 1 "),
    OddSource("folders within a class", with_images("cat/2024/05/a.png"), USED, images=17),
    OddSource("a link to nothing", lambda r: [pets(r), (r / "cat/lost.png").symlink_to(r / "gone")],
        REFUSED, "lost.png: is a link to nothing"),
    OddSource("a pipe", piped, COUNTED, "neither a file nor a folder: 1 "),
    OddSource("torn images", torn_many, REFUSED, "cat/0.png.*2 more: .*1.png"),
    OddSource("an empty image", beside("cat/a.png", content=b""), REFUSED, "a.png: 0 bytes.*not an image"),
    OddSource("a web page in a JPEG's name", beside("cat/a.jpg", content=b"<html>"),
        REFUSED, "a.jpg: .*are not an image"),
    OddSource("GIFs among PNGs", with_images("cat/a.gif", "cat/b.gif"),
        REFUSED, r"a\.gif has an unsupported format.*1 more"),
    OddSource("a TIFF without a suffix", with_images("cat/a", format="TIFF"),
        REFUSED, "cat/a has an unsupported format"),
    OddSource("an image of 10,000 x 1 pixels", strip, REFUSED, "strip.png: .*too long and thin"),
    OddSource("a photograph on its side with broken EXIF", turned, USED, images=17),
    OddSource("a name of two lines", listed_folder, REFUSED, r"a\\nb\.png: "),
    OddSource("Train and Test", lambda r: with_splits(r, "Train", "Test"), COUNTED, "Train is read as train"),
    OddSource("training, valid and testing", lambda r: with_splits(r, "training", "valid", "testing"),
        COUNTED, "valid is read as validation", 24),
    OddSource("train, dev and eval", lambda r: with_splits(r, "train", "dev", "eval"),
        COUNTED, "eval is read as test", 24),
    OddSource("val and valid", lambda r: with_splits(r, "train", "val", "valid"), REFUSED, "has both val and valid"),
    OddSource("train and Train", lambda r: with_splits(r, "train", "Train"), REFUSED, "has both Train and train"),
    OddSource("test without train", lambda r: with_splits(r, "test", "val"), REFUSED, "there is no train"),
    OddSource("train beside what looks like classes", lambda r: [with_splits(r, "train"), fill(r / "bus")],
        REFUSED, "bus like a class"),
    OddSource("a folder beside the splits", lambda r: [with_splits(r, "train", "test"), fill(r / "extra")],
        COUNTED, "beside the splits: 1 .extra"),
    OddSource("a class that is called train", trains, USED),
    OddSource("test images without class folders", lambda r: [with_splits(r, "train"), fill(r / "test")],
        REFUSED, "test has no class folder"),
    OddSource("images in train and test, no classes", lambda r: fill(r / "train", r / "test"),
        REFUSED, "test and train have no class folders"),
    OddSource("the folder above", nested, REFUSED, "its folders are in .*flowers: give that one"),
    OddSource("one class", lambda r: fill(r / "cat"), REFUSED, r"1 class folder \(cat\)"),
    OddSource("an empty class", lambda r: [pets(r), (r / "newt").mkdir()], REFUSED, "'newt' has 0 image"),
    OddSource("a class that only the test has", lambda r: [with_splits(r, "train", "test"), save(r / "test/emu/0.png")],
        REFUSED, "'emu', which is not in train"),
    OddSource("a class that is not tested", lambda r: [with_splits(r, "train", "test"), fill(r / "train/emu", count=2)],
        COUNTED, "1 class without a test image", 18),
    OddSource("a class name in two Unicode forms", composed, USED),
    OddSource("two classes that differ in Unicode form", composed_twice, REFUSED, "differ in their Unicode form"),
    OddSource("a class name that is not UTF-8", not_utf8, REFUSED, "is not UTF-8"),
    OddSource("a class name with spaces at its ends", lambda r: fill(r / "cat", r / " dog "),
        REFUSED, "has a space at an end"),
    OddSource("an image under two labels", copied("cat/0.png", "dog/same.png"), REFUSED, "1 image has the pixels"),
    OddSource("an image in train and test",
        lambda r: [with_splits(r, "train", "test"), shutil.copy(r / "train/cat/0.png", r / "test/cat/9.png")],
        REFUSED, "9.png = .*train/cat/0.png"),
    OddSource("the same pixels in another format", recoded, REFUSED, "again.bmp = .*train/cat/0.png"),
    OddSource("an image twice in one class", copied("cat/0.png", "cat/copy.png"), COUNTED, "1 image repeated", 17),
    OddSource("a class of one image in eight copies", all_the_same, REFUSED, "'dog' have the same pixels"),
    OddSource("a photograph in train, compressed again in test", photographed_twice,
        COUNTED, "1 validation or test image like one", 18),
)  # fmt: skip
