"""What the store keeps, as frozen values that check themselves when they are made."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from store import decoding
from store.blob import SHA256, Blob, canonical_json
from store.errors import FormatError, InvalidNameError
from store.names import BACKBONE_NAME, check_name

MANIFEST_FORMAT = 2
"""Raise it when an older onetrunk would misread a new manifest, and teach `Manifest.from_json` both.

2: a lineage may have a code commit and a parent, and may be without data.
"""
SINCE_FORMAT_2 = ("code_commit", "parent")

T = TypeVar("T")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the backbone's input (timm's data config): sizes in pixels, RGB mean and std in 0..1."""

    height: int
    width: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float
    crop_mode: str

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or not 0 < self.crop_pct <= 1 or min(self.std) <= 0:
            raise FormatError(f"preprocessing {self}: sizes and std must be above 0, crop_pct in (0, 1]")


@dataclass(frozen=True)
class BackboneId:
    """Identify a frozen ViT: its architecture, arguments and preprocessing, and a digest over these and its tensors."""

    architecture: str
    arguments: Mapping[str, object]
    preprocessing: Preprocessing
    fingerprint: str

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.fingerprint):
            raise FormatError(f"backbone fingerprint {self.fingerprint[:80]!r}: expected 64 hex digits")


@dataclass(frozen=True)
class BackboneRecord:
    """A backbone as the store knows it; `weights` is None where they stay at `source`, pinned by the fingerprint."""

    name: str
    id: BackboneId
    blocks: int
    dim: int
    parameters: int
    block_parameters: int
    nbytes: int
    source: str
    weights: Blob | None
    modules: Mapping[str, tuple[int, int]]
    """Full path of each linear map in the blocks -> (out_features, in_features)."""

    def __post_init__(self) -> None:
        if not BACKBONE_NAME.fullmatch(self.name) or ".." in self.name:
            raise InvalidNameError(
                f"backbone name {self.name[:80]!r} is not valid: use letters, digits and '._:/-', at most 256; "
                "choose one with --as"
            )
        if min(self.blocks, self.dim, self.nbytes) < 1:
            raise FormatError(f"backbone {self.name!r}: blocks, dim and nbytes must be above 0")


@dataclass(frozen=True)
class PruneIndex:
    """What SLS decided: run blocks 1..depth of `blocks`, and the evidence for it.

    `scores[i]` belongs to block i + 1 and is None where the walk stopped before it; `threshold` is
    None and `reason` is set where the rule is undefined and nothing was pruned.
    """

    depth: int
    blocks: int
    criterion: str
    alpha: float | None = None
    threshold: float | None = None
    scores: tuple[float | None, ...] = ()
    seed: int | None = None
    samples: int = 0
    reason: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= self.blocks:
            raise FormatError(
                f"depth {self.depth} is outside 1..{self.blocks}: a task runs at least one block and at most all"
            )
        if self.scores and len(self.scores) != self.blocks:
            raise FormatError(
                f"{len(self.scores)} scores for {self.blocks} blocks: give one for each block, None where not scored"
            )


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy as counts, so that its interval can be computed."""

    correct: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total or self.total < 1:
            raise FormatError(f"accuracy {self.correct}/{self.total}: expected 0 <= correct <= total and total >= 1")

    @property
    def value(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval (Wilson 1927)."""
        z, n, p = 1.959963984540054, self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Certificate:
    """Held-out accuracy of the task: at full depth, and at the cut before and after retuning."""

    full: Accuracy
    cut: Accuracy
    cut_before_retune: Accuracy | None = None


@dataclass(frozen=True)
class Lineage:
    """Where a version came from: the data's name and digest, the tuning recipe, and the library versions.

    `code_commit` is what git calls the code that tuned it, `parent` the version that it was made from
    (`TASK@sha256:…`).
    """

    data: str | None = None
    data_digest: str | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    recipe: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    code_commit: str | None = None
    parent: str | None = None


@dataclass(frozen=True)
class Adapter:
    """PEFT weights of a task: the method, and every adapted module by its full path (`blocks.3.attn.qkv`)."""

    method: str
    rank: int
    modules: tuple[str, ...]
    config: Blob
    weights: Blob


@dataclass(frozen=True)
class Head:
    """A linear classifier (classes x dim) and its class names, one a line."""

    classes: int
    dim: int
    weights: Blob
    labels: Blob

    def __post_init__(self) -> None:
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
        _check_format(self.format, self.lineage)

    def to_json(self) -> bytes:
        value = _in_its_format(dataclasses.asdict(self))
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Card:
        return decode(cls, data, "onetrunk.json")


@dataclass(frozen=True)
class Manifest:
    """Describe one version of a task; the SHA-256 of its canonical JSON is the version's digest."""

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
        _check_format(self.format, self.lineage)

    @property
    def depth(self) -> int:
        return self.prune_index.depth

    @property
    def blobs(self) -> tuple[Blob, ...]:
        return (self.adapter.config, self.adapter.weights, self.head.weights, self.head.labels)

    def to_json(self) -> bytes:
        """Encode as the format that it is in was written, so that the digest stays what it was."""
        return canonical_json(_in_its_format(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        return decode(cls, data, "manifest")


def _check_format(number: int, lineage: Lineage | None) -> None:
    """Raise `FormatError` where a record holds what its format cannot say."""
    newer = [key for key in SINCE_FORMAT_2 if lineage is not None and getattr(lineage, key) is not None]
    if number < 1 or (number < 2 and newer):
        raise FormatError(f"format {number} {'has no ' + newer[0] if newer else 'is none'}: write {MANIFEST_FORMAT}")


def _in_its_format(value: dict[str, typing.Any]) -> dict[str, typing.Any]:
    if value["format"] < 2 and value["lineage"] is not None:
        for key in SINCE_FORMAT_2:
            del value["lineage"][key]
    return value


def decode(cls: type[T], data: bytes, what: str, *, newest: int = MANIFEST_FORMAT) -> T:
    """Decode a record as `store.decoding` does, of a format up to `newest`."""
    return decoding.decode(cls, data, what, newest=newest)
