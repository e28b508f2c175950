"""A frozen backbone as the store knows it: its identity, its preprocessing and its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from store.errors import FormatError, InvalidNameError
from store.records.blob import SHA256, Blob
from store.records.geometry import Geometry
from store.records.refs import BACKBONE_NAME

DEFAULT_BACKBONE = "onetrunk/vit_tiny_64.v2"
"""The packaged backbone, which needs no download."""
PATCH = re.compile(r"patch(\d+)")


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

    @cached_property
    def geometry(self) -> Geometry:
        """Its blocks, by name and width."""
        return Geometry.of(self.modules)

    @cached_property
    def patch_grid(self) -> tuple[int, int] | None:
        """How many rows and columns of patches an image has; None where the record does not tell a patch's size."""
        side = self.id.arguments.get("patch_size")
        if side is None:
            found = PATCH.search(self.id.architecture)
            side = int(found[1]) if found else None
        if type(side) is not int or side < 1:
            return None
        return self.id.preprocessing.height // side, self.id.preprocessing.width // side

    def width_at(self, depth: int) -> int:
        """Return how many features there are after so many blocks: in a backbone of stages, fewer in the first ones."""
        return self.geometry.dims[depth - 1] if self.geometry.staged else self.dim

    def parameters_above(self, depth: int) -> int:
        """Return the parameters of the blocks above this depth; in stages, by their shares of the linear maps'."""
        if not self.geometry.staged:
            return (self.blocks - depth) * self.block_parameters
        sizes = [(self.geometry.number(path) > depth, out * fan_in) for path, (out, fan_in) in self.modules.items()]
        above = sum(size for is_above, size in sizes if is_above)
        return self.blocks * self.block_parameters * above // sum(size for _, size in sizes)

    def head_widths(self, depth: int) -> tuple[int, ...]:
        """How many features a head at this depth may take."""
        dim = self.width_at(depth)
        return (dim, 2 * dim) if self.id.arguments.get(PATCH_MEAN) is True else (dim,)

    def __post_init__(self) -> None:
        if not BACKBONE_NAME.fullmatch(self.name) or ".." in self.name:
            raise InvalidNameError(
                f"backbone name {self.name[:80]!r} is not valid: use letters, digits and '._:/-', at most 256; "
                "choose another with `label=`"
            )
        if min(self.blocks, self.dim, self.nbytes) < 1:
            raise FormatError(f"backbone {self.name!r}: blocks, dim and nbytes must be above 0")


PATCH_MEAN = "patch_mean"
"""The argument of a backbone whose heads may read the mean of the patches after the class token, as DINOv2's do."""
PREFIXES = ("hf-hub:", "local-dir:")
TRANSFORMERS = "transformers:"
"""Before the source of a backbone whose weights were converted from a model of transformers."""
MAX_REMEDY = 1000  # characters; a record from elsewhere may hold anything


def timm_name(record: BackboneRecord) -> str | None:
    """Return the name under which timm finds the weights, None where they came from a file or with onetrunk."""
    base, _, tag = record.source.partition(".")
    is_timm_tag = base == record.id.architecture and tag != "safetensors"
    return record.source if is_timm_tag or record.source.startswith(PREFIXES) else None


def hub_id(record: BackboneRecord) -> str | None:
    """Return the repository of the weights on the Hub where the source alone tells it."""
    name = timm_name(record)
    name = name or record.source.removeprefix(TRANSFORMERS)
    if not name.startswith("hf-hub:") and timm_name(record) is None:
        return None
    if name.startswith("local-dir:"):
        return None
    if name.startswith("hf-hub:"):
        return name.removeprefix("hf-hub:").partition("@")[0]
    return f"timm/{name}" if "." in name else None  # which tag is timm's default changes with timm


@dataclass(frozen=True)
class BackboneSource:
    """What a backbone is loaded from: its name for `load_backbone`, and that function's other arguments.

    `weights` is None where the name alone finds them, `label` where the name is the label.
    """

    name: str
    weights: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    label: str | None = None


def source_of(record: BackboneRecord, *, file: str | None = None) -> BackboneSource:
    """Return what the backbone is loaded from; weights from a file are in `file`, or where they were."""
    if record.source == "package":
        return BackboneSource(record.name)
    if record.source.startswith(TRANSFORMERS):
        name = record.source.removeprefix(TRANSFORMERS)
        return BackboneSource(name, label=None if name == record.name else record.name)
    known = timm_name(record)
    label = None if known == record.name else record.name
    if known is not None:
        return BackboneSource(known, None, record.id.arguments, label)
    return BackboneSource(record.id.architecture, file or record.source, record.id.arguments, label)


def adopt_remedy(record: BackboneRecord) -> str:
    """Say by which call the backbone is added to a store, for messages."""
    source, call = source_of(record), "`adopt_backbone(store, name)`"
    optional = {"`weights=`": source.weights, "`arguments=`": dict(source.arguments), "`label=`": source.label}
    words = [f"name {source.name!r}", *(f"{name} {value!r}" for name, value in optional.items() if value)]
    remedy = f"{call} with {', '.join(words)}"
    return remedy if len(remedy) <= MAX_REMEDY else call
