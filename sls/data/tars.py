"""Read tars of samples, as WebDataset has them: `KEY.jpg` beside `KEY.cls`; nothing is unpacked."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sls.data.image_source import SUFFIXES, FileSpan, place
from sls.data.left_out import LeftOut
from sls.data.raw import RawDataset, part_of
from sls.data.rows import LABEL_NAMES, Row, raw_from_rows
from store.errors import DataError

MAX_LABEL_NBYTES = 1 << 20
LABELS = frozenset({".cls", ".json"})


@dataclass
class Sample:
    """The members of one key."""

    images: list[FileSpan] = field(default_factory=list)
    labels: dict[str, bytes] = field(default_factory=dict)


def read_tars(name: str, paths: Sequence[Path]) -> RawDataset:
    """Read each tar; a file's name says its split, such as `train-0001.tar`. Raises `DataError`."""
    left_out, rows = LeftOut(), list[Row]()
    for path in paths:
        part = part_of(re.split(r"[-_.\d]", path.name)[0]) if len(paths) > 1 else None
        for key, sample in _samples(path, left_out).items():
            where = f"{place(path)}: {place(key)}"
            if len(sample.images) > 1:
                raise DataError(f"{where} has {len(sample.images)} images: give each sample one")
            if not sample.images:
                left_out.add("a sample without an image", where)
                continue
            rows.append(Row(sample.images[0], _label(sample, where), part, where))
    return raw_from_rows(name, place(paths[0]), rows, left_out)


def _samples(path: Path, left_out: LeftOut) -> Mapping[str, Sample]:
    samples: dict[str, Sample] = {}
    nbytes = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                _add(path, tar, member, samples, left_out)
                if member.isreg() and member.offset_data + member.size > nbytes:
                    raise DataError(f"{place(path)} ends within {place(member.name)}: copy it again, whole")
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{place(path)} is not a readable tar ({error}): decompress it, or write it again") from None
    if not samples:
        raise DataError(f"{place(path)} has no sample: give KEY.jpg and KEY.cls for each image")
    return samples


def _add(
    path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, samples: dict[str, Sample], left_out: LeftOut
) -> None:
    name = PurePosixPath(member.name)
    stem, dot, rest = name.name.partition(".")
    where = f"{place(path)}: {place(member.name)}"
    if member.isdir():
        return
    if not stem or not member.isreg() or member.issparse():
        left_out.add("hidden, a link or not a regular file", where)
        return
    suffix = f"{dot}{rest}".lower()
    sample = samples.setdefault(str(name.parent / stem), Sample())
    if suffix in SUFFIXES:
        sample.images.append(FileSpan(path, member.offset_data, member.size, member.name))
    elif suffix in LABELS and member.size <= MAX_LABEL_NBYTES:
        file = tar.extractfile(member)
        sample.labels[suffix] = file.read(MAX_LABEL_NBYTES) if file else b""
    else:
        left_out.add("neither an image nor a label", where)


def _label(sample: Sample, where: str) -> object:
    """Return what the sample's `.cls` says, or the label in its `.json`; None where neither does."""
    try:
        if ".cls" in sample.labels:
            text = sample.labels[".cls"].decode().strip()
            return int(text) if text.lstrip("-").isdigit() else text
        value = json.loads(sample.labels[".json"]) if ".json" in sample.labels else {}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its label cannot be read ({error}): write it as UTF-8, or as JSON") from None
    names = [name for name in (*LABEL_NAMES, "cls") if isinstance(value, dict) and name in value]
    return value[names[0]] if names else None
