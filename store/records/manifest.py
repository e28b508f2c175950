"""The card of a task and the manifest of a version, as frozen values that are checked when they are made."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from store.errors import FormatError
from store.records import decoding
from store.records.blob import Blob, canonical_json, check_blake3
from store.records.evidence import Certificate, Lineage, PruneIndex
from store.records.refs import check_name

MANIFEST_FORMAT = 7
"""Raise it when an older onetrunk would misread a new manifest, and add the new keys to `SINCE`.

2: a lineage may have a code commit and a parent, and may be without data.
3: a prune index may be undecided; a certificate has what the validation images say.
4: an adapter may be of another method than LoRA; a certificate may be without accuracy at full depth.
5: the weights of adapter and head have a BLAKE3 digest beside the SHA-256 that names them.
6: a certificate counts the duplicates that the user allowed.
7: a certificate has the cost of a 16-bit dtype, counts by class, and calibration, a prune index a width and tokens;
keys that came with this format or later are left out where they have no value.
"""
LEFT_OUT_SINCE = 7
SINCE: Mapping[str, Mapping[str, int]] = {
    "lineage": {"code_commit": 2, "parent": 2},
    "prune_index": {"tolerance": 3, "candidates": 3, "width": 7, "tokens": 7},
    "certificate": {
        "validation": 3,
        "max_drop": 3,
        "curve": 3,
        "duplicates": 6,
        "rounding": 7,
        "class_counts": 7,
        "calibration": 7,
    },
    "adapter": {"weights_blake3": 5},
    "head": {"weights_blake3": 5},
}
"""Part of a card or manifest -> key -> the format that it came with."""

T = TypeVar("T")


@dataclass(frozen=True)
class Adapter:
    """PEFT weights of a task: the method, and every adapted module by its full path (`blocks.3.attn.qkv`)."""

    method: str
    rank: int
    modules: tuple[str, ...]
    config: Blob
    weights: Blob
    weights_blake3: str | None = None

    def __post_init__(self) -> None:
        check_blake3(self.weights_blake3)


@dataclass(frozen=True)
class Head:
    """A linear classifier (classes x dim) and its class names, one a line."""

    classes: int
    dim: int
    weights: Blob
    labels: Blob
    weights_blake3: str | None = None

    def __post_init__(self) -> None:
        check_blake3(self.weights_blake3)
        if self.classes < 2 or self.dim < 1:
            raise FormatError(f"head of {self.classes} classes on {self.dim} features: a task has at least two classes")


@dataclass(frozen=True)
class Card:
    """`onetrunk.json`: what a task's folder says beside PEFT's own files; `backbone` is a fingerprint."""

    backbone: str
    prune_index: PruneIndex
    certificate: Certificate | None = None
    lineage: Lineage | None = None
    format: int = MANIFEST_FORMAT

    def __post_init__(self) -> None:
        _check_format(self)

    def to_json(self) -> bytes:
        value = _without_newer_keys(dataclasses.asdict(self))
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Card:
        return decode(cls, data, "onetrunk.json")


@dataclass(frozen=True)
class Manifest:
    """One version of a task; the SHA-256 of its canonical JSON is the version's digest."""

    task: str
    backbone: str
    backbone_name: str
    prune_index: PruneIndex
    adapter: Adapter
    head: Head
    certificate: Certificate | None = None
    lineage: Lineage | None = None
    format: int = MANIFEST_FORMAT

    def __post_init__(self) -> None:
        check_name(self.task, "task")
        _check_format(self)
        counts = self.certificate and self.certificate.class_counts
        if counts and len(counts.images) != self.head.classes:
            raise FormatError(f"counts of {len(counts.images)} classes for a head of {self.head.classes}: count again")

    @property
    def depth(self) -> int:
        return self.prune_index.depth

    @property
    def blobs(self) -> tuple[Blob, ...]:
        return (self.adapter.config, self.adapter.weights, self.head.weights, self.head.labels)

    @property
    def blake3(self) -> dict[Blob, str]:
        """The second digests, by the blobs that have one."""
        pairs = ((part.weights, part.weights_blake3) for part in (self.adapter, self.head))
        return {blob: digest for blob, digest in pairs if digest is not None}

    def to_json(self) -> bytes:
        """Encode in the record's own format, so that its digest does not change."""
        return canonical_json(_without_newer_keys(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        return decode(cls, data, "manifest")


def _check_format(record: Card | Manifest) -> None:
    """Raise `FormatError` where a record has a value that its format lacks."""
    if record.format < 1:
        raise FormatError(f"format {record.format} is not valid: write {MANIFEST_FORMAT}")
    if record.format < 4 and record.certificate is not None and record.certificate.full is None:
        raise FormatError(f"format {record.format} has no certificate without full: write {MANIFEST_FORMAT}")
    for name, keys in SINCE.items():
        part = getattr(record, name, None)
        newer = [
            key for key, since in keys.items() if since > record.format and getattr(part, key, None) not in (None, ())
        ]
        if newer:
            raise FormatError(f"format {record.format} has no {newer[0]}: write {MANIFEST_FORMAT}")


def _without_newer_keys(value: dict[str, typing.Any]) -> dict[str, typing.Any]:
    for name, keys in SINCE.items():
        part = value.get(name)
        if part is None:
            continue
        for key, since in keys.items():
            if since > value["format"] or (since >= LEFT_OUT_SINCE and part[key] is None):
                del part[key]
    return value


def decode(cls: type[T], data: bytes, source: str, *, newest: int = MANIFEST_FORMAT) -> T:
    """Decode a record of a format up to `newest`, as `store.records.decoding` does."""
    return decoding.decode(cls, data, source, newest=newest)
