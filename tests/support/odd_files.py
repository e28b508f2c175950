"""Odd and broken files of images: tables, tars, Parquet, what `save_to_disk` writes, and names that are none."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from support.odd_sources import COUNTED, REFUSED, USED, OddSource, pets, picture, save, with_splits

ROWS = [(f"{label}/{index}.png", label) for label in ("cat", "dog") for index in range(8)]


def csv_of(*lines: str, head: str = "path,label", name: str = "pets.csv", more: bool = True) -> Callable[[Path], Path]:
    """The pets and a table of them, with lines of its own."""

    def make(root: Path) -> Path:
        pets(root)
        delimiter = next(one for one in ",;\t" if one in head)
        rows = [f"{image}{delimiter}{label}" for image, label in ROWS] if more else []
        (root / name).write_text("\n".join([head, *rows, *lines]) + "\n", "utf-8")
        return root / name

    return make


def csv_bytes(content: bytes) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        pets(root)
        (root / "pets.csv").write_bytes(content)
        return root / "pets.csv"

    return make


def split_csv(*parts: str) -> Callable[[Path], Path]:
    """A table whose rows have these splits in turn."""
    rows = [f"{image},{label},{parts[index % len(parts)]}" for index, (image, label) in enumerate(ROWS)]
    return csv_of(*rows, head="path,label,split", more=False)


def json_lines(*lines: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        pets(root)
        rows = [json.dumps({"image": image, "label": label}) for image, label in ROWS]
        (root / "pets.jsonl").write_text("\n".join([*rows, *lines]), "utf-8")
        return root / "pets.jsonl"

    return make


def metadata(root: Path) -> None:
    """A Hugging Face image folder, with one image that its metadata does not list."""
    for split in ("train", "test"):
        for index in range(8):
            save(root / split / f"{index}.png")
        lines = [f"{index}.png,{'cat' if index % 2 else 'dog'}" for index in range(8)]
        (root / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    save(root / "train" / "extra.png")


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(count: int, first: int = 0) -> dict[str, bytes]:
    keys = range(first, first + count)
    return {
        f"{key:04}.{kind}": encoded(key) if kind == "png" else b"%d" % (key % 2)
        for key in keys
        for kind in ("png", "cls")
    }


def one_tar(**changes: bytes | None) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        members = samples(16) | {name.replace("__", "."): content for name, content in changes.items()}
        return tar_of(root / "pets.tar", {name: content for name, content in members.items() if content is not None})

    return make


def linked_tar(root: Path) -> Path:
    path = one_tar()(root)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("0099.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


def torn_tar(root: Path) -> Path:
    path = one_tar()(root)
    path.write_bytes(path.read_bytes()[:20_000])
    return path


def two_tars(root: Path) -> None:
    tar_of(root / "train-0000.tar", samples(12))
    tar_of(root / "test-0000.tar", samples(4, 100))


def half_saved(root: Path) -> None:
    with_splits(root, "train")
    (root / "state.json").write_text("{}")


def source(text: str) -> Callable[[Path], str]:
    return lambda _: text


ODD_FILES = (
    OddSource("a CSV of paths and labels", csv_of(), USED),
    OddSource("a CSV with semicolons, as spreadsheets write it", csv_of(head="path;label"), USED),
    OddSource("a CSV with a byte order mark", csv_bytes("\ufeffpath,label\n".encode() + b"".join(
        f"{image},{label}\r\n".encode() for image, label in ROWS)), USED),
    OddSource("a CSV with a column for the split", split_csv("train", "train", "Valid", "testing"), USED),
    OddSource("a CSV with paths of Windows", csv_of(*(f"{i.replace('/', chr(92))},{c}" for i, c in ROWS), more=False),
        USED),
    OddSource("a split that is unknown", split_csv("train", "holdout"), REFUSED, "line 3: split 'holdout' is unknown"),
    OddSource("a split for some rows only", split_csv("train", ""), REFUSED, "line 3 has no split, others have"),
    OddSource("no row to train on", split_csv("test"), REFUSED, "has no training images"),
    OddSource("a CSV without a first line of names", csv_of(head="a.png,cat"),
        REFUSED, "none for the image: name one of them"),
    OddSource("a CSV of one column a class", csv_of("cat/0.png,1,0", head="path,cat,dog", more=False),
        REFUSED, "columns cat, dog say yes or no, one for each class: tasks of several labels"),
    OddSource("two columns for the label", csv_of("cat/0.png,cat,cat", head="path,label,class", more=False),
        REFUSED, "both for the label"),
    OddSource("a row with a cell too many", csv_of("cat/0.png,cat,yes"),
        REFUSED, "line 18 has 3 cells, its first line 2"),
    OddSource("rows of files that are missing", csv_of("cat/98.png,cat", "cat/99.png,cat"),
        REFUSED, "line 18: no file .*98.png.*1 more"),
    OddSource("a row that is a URL", csv_of("https://example.org/a.png,cat"), REFUSED, "is a URL: download"),
    OddSource("rows without a label", csv_of("cat/0.png,", "dog/0.png,"), COUNTED, "without a label: 2 "),
    OddSource("one image in two rows of two labels", csv_of("cat/0.png,dog"), REFUSED, "1 image has the pixels"),
    OddSource("labels of several classes", csv_of("cat/0.png,cat|dog"),
        REFUSED, "has several classes: tasks of several labels"),
    OddSource("labels that are measurements", csv_of("cat/0.png,1.5", "cat/1.png,2.25", more=False),
        REFUSED, "regression is not supported"),
    OddSource("labels of several classes alone", csv_of("cat/0.png,cat|big", "cat/1.png,big|old", more=False),
        REFUSED, "has several classes: tasks of several labels"),
    OddSource("labels that are written lists",
        csv_of("cat/0.png;[0, 2]", "cat/1.png;[1]", head="path;label", more=False),
        REFUSED, "has several values: tasks of several labels"),
    OddSource("a CSV without a label", csv_of("cat/0.png,cat", head="path,kind", more=False),
        REFUSED, "none for the label"),
    OddSource("labels that are measurements in powers of ten",
        csv_of("cat/0.png,1e-05", "cat/1.png,3", more=False), REFUSED, "regression is not supported"),
    OddSource("labels that are whole measurements",
        csv_of(*(f"{image},{17 * index + 5 * again}" for again in (0, 1) for index, (image, _) in enumerate(ROWS)),
            more=False), REFUSED, "different numbers of 32 images: regression is not supported"),
    OddSource("a CSV in Latin-1", csv_bytes("path,label\ncat/0.png,été\n".encode("latin-1")),
        REFUSED, "save it as UTF-8"),
    OddSource("an empty CSV", csv_bytes(b""), REFUSED, "lists no image"),
    OddSource("JSON Lines", json_lines(), USED),
    OddSource("JSON Lines with a list of labels", json_lines('{"image": "cat/0.png", "label": ["cat", "dog"]}'),
        REFUSED, "has several values"),
    OddSource("a line that is not JSON", json_lines("{"), REFUSED, "line 17 is not JSON"),
    OddSource("an image folder with metadata", metadata, COUNTED, "not in the metadata: 1 .*extra.png"),
    OddSource("a WebDataset tar", one_tar(), USED),
    OddSource("a folder of tars by split", two_tars, USED),
    OddSource("a tar with a link", linked_tar, COUNTED, "a link or not a regular file: 1 "),
    OddSource("a tar with a caption and a sample without image", one_tar(**{"0000__txt": b"a cat", "0077__cls": b"1"}),
        COUNTED, "neither an image nor a label: 1 .*without an image: 1 "),
    OddSource("a sample of two images", one_tar(**{"0000__jpg": encoded(77)}), REFUSED, "0000 has 2 images"),
    OddSource("a torn image in a tar", one_tar(**{"0003__png": encoded(3)[:90]}),
        REFUSED, "pets.tar: 0003.png: image cannot be decoded"),
    OddSource("a tar that ends early", torn_tar, REFUSED, "is not a readable tar|ends within"),
    OddSource("a compressed tar", lambda r: one_tar()(r).rename(r / "pets.tar.gz"), REFUSED, "unpack it first"),
    OddSource("a tar of class folders",
        lambda r: tar_of(r / "pets.tar", {f"cat/{i}.png": encoded(i) for i in range(4)}),
        REFUSED, "has no image with a label"),
    OddSource("a zip", lambda r: [(r / "pets.zip").write_bytes(b"PK"), r / "pets.zip"][1], REFUSED, "unpack it first"),
    OddSource("a file of no known kind", lambda r: [(r / "pets.txt").write_text("cat"), r / "pets.txt"][1],
        REFUSED, "is not a source of images"),
    OddSource("a path that does not exist", source("./missing"), REFUSED, "no data at './missing'"),
    OddSource("a name that timm does not have", source("flowers/oxford"), REFUSED, "no data at 'flowers/oxford'"),
    OddSource("a name that reads the current folder", source("timm/folder"), REFUSED, "name it with `root=`"),
    OddSource("a misspelt embedded dataset", source("onetrunk/digit"), REFUSED, "no embedded dataset"),
    OddSource("Parquet whose footer is missing", lambda r: [(r / "a.parquet").write_bytes(b"PAR1"), r / "a.parquet"][1],
        REFUSED, "cannot be read"),
    OddSource("a folder that save_to_disk left half", half_saved, REFUSED, "has no list '_data_files'"),
)  # fmt: skip
