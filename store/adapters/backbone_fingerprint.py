"""A backbone's fingerprint, from the bytes of its safetensors file and without a tensor library."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from store.adapters.safetensors_header import TensorInfo, parse_view
from store.errors import BackboneMismatchError, FormatError
from store.records.backbone import BackboneRecord, Preprocessing
from store.records.blob import canonical_json
from store.records.geometry import Geometry, count_blocks

IN_BLOCKS = ("blocks.", "layers.")  # what the names of tensors in blocks begin with
REMEMBERED = 16  # files; a backbone's leaves take some 50 kB
TORCH_NAMES = {
    "BOOL": "torch.bool",
    "U8": "torch.uint8",
    "I8": "torch.int8",
    "F8_E4M3": "torch.float8_e4m3fn",
    "F8_E5M2": "torch.float8_e5m2",
    "I16": "torch.int16",
    "U16": "torch.uint16",
    "F16": "torch.float16",
    "BF16": "torch.bfloat16",
    "I32": "torch.int32",
    "U32": "torch.uint32",
    "F32": "torch.float32",
    "I64": "torch.int64",
    "U64": "torch.uint64",
    "F64": "torch.float64",
    "C64": "torch.complex64",
}


@dataclass(frozen=True)
class Leaf:
    """One tensor as the fingerprint sees it: its dtype by torch's name, the digest of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str


def fingerprint_of(
    architecture: str, arguments: Mapping[str, object], preprocessing: Preprocessing, leaves: Iterable[Leaf]
) -> str:
    """Hash the architecture, its arguments, the preprocessing, and each tensor's name, dtype, shape and digest."""
    rows = sorted([leaf.name, leaf.dtype, list(leaf.shape), leaf.sha256] for leaf in leaves)
    root = [architecture, dict(arguments), dataclasses.asdict(preprocessing), rows]
    return hashlib.sha256(canonical_json(root)).hexdigest()


def fingerprint_file(
    data: bytes, architecture: str, arguments: Mapping[str, object], preprocessing: Preprocessing
) -> str:
    """Compute `fingerprint_of` over a safetensors file's bytes; raise `FormatError` where they are not one."""
    return fingerprint_of(architecture, arguments, preprocessing, leaves_of(data, "backbone weights"))


def leaves_of(data: bytes | memoryview, source: str) -> tuple[Leaf, ...]:
    view = memoryview(data)
    return tuple(_leaf(view, name, info, source) for name, info in parse_view(view, source).items())


def check_fingerprint(record: BackboneRecord, data: bytes) -> None:
    """Raise `BackboneMismatchError` unless the weights are the record's, `FormatError` unless they are safetensors."""
    check_leaves(record, leaves_of(data, f"weights of backbone {record.name}"))


def check_leaves(record: BackboneRecord, leaves: Sequence[Leaf]) -> None:
    """Raise `BackboneMismatchError` unless the record with these tensors has its fingerprint."""
    identity = record.id
    fingerprint = fingerprint_of(identity.architecture, identity.arguments, identity.preprocessing, leaves)
    if fingerprint != identity.fingerprint:
        raise BackboneMismatchError(
            f"backbone {record.name!r} has fingerprint {fingerprint[:12]}, expected {identity.fingerprint[:12]}: "
            "its weights, architecture or preprocessing changed; restore the original"
        )
    _check_description(record, leaves)


class Fingerprints:
    """Checks of one process: the tensors of a file that was read before are not hashed again."""

    def __init__(self) -> None:
        self._leaves: OrderedDict[str, tuple[Leaf, ...]] = OrderedDict()

    def check(self, record: BackboneRecord, data: bytes | memoryview, *, sha256: str) -> None:
        """Do what `check_fingerprint` does; `sha256` is the digest of the data, verified by the caller."""
        leaves = self._leaves.get(sha256) or leaves_of(data, f"weights of backbone {record.name}")
        self._leaves[sha256] = leaves
        if len(self._leaves) > REMEMBERED:
            self._leaves.popitem(last=False)
        check_leaves(record, leaves)


def _check_description(record: BackboneRecord, leaves: Sequence[Leaf]) -> None:
    """Check the fields that the fingerprint leaves out and that tasks are checked against."""
    weights = {leaf.name.removesuffix(".weight"): leaf.shape for leaf in leaves if leaf.name.endswith(".weight")}
    modules = {name: shape for name, shape in weights.items() if name.startswith(IN_BLOCKS) and len(shape) == 2}
    geometry = Geometry.of(modules)
    described = {
        "blocks": (record.blocks, count_blocks(modules)),
        "parameters": (record.parameters, sum(math.prod(leaf.shape) for leaf in leaves)),
        "dim": (record.dim, geometry.stage_dims[-1]),
        "modules": (dict(record.modules), modules),
    }
    for field, (recorded, measured) in described.items():
        if recorded != measured:
            raise BackboneMismatchError(
                f"the record of backbone {record.name!r} has {field} {str(recorded)[:80]}, "
                f"its weights {str(measured)[:80]}: "
                "add the backbone again with `adopt_backbone(store, name)`"
            )


def _leaf(view: memoryview, name: str, info: TensorInfo, source: str) -> Leaf:
    if info.dtype not in TORCH_NAMES:
        raise FormatError(f"{source}: tensor {name[:120]!r} is {info.dtype}, which torch does not read: convert it")
    sha256 = hashlib.sha256(view[info.offset : info.offset + info.nbytes]).hexdigest()
    return Leaf(name, TORCH_NAMES[info.dtype], info.shape, sha256)
