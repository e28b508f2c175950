"""What a request of the Open Inference Protocol asks for, and the tensors that answer it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.errors import FormatError

LENGTH = struct.Struct("<I")
MOST_ELEMENTS = 4096  # of BYTES, so that a body of empty ones costs little
Json = Mapping[str, Any]


@dataclass(frozen=True)
class GivenTensor:
    """One input: BYTES as its elements, any other datatype as its bytes, row by row, the lowest byte first."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes | tuple[bytes, ...]


@dataclass(frozen=True)
class AskedOutput:
    """One output; with `classes`, only its so many greatest values, each as `VALUE:INDEX:LABEL`."""

    name: str
    classes: int = 0
    binary: bool = False


@dataclass(frozen=True)
class Inference:
    """One request; without outputs, all of them are answered, in binary where `binary` says so."""

    id: str
    inputs: tuple[GivenTensor, ...]
    outputs: tuple[AskedOutput, ...] = ()
    binary: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True, eq=False)
class MadeOutput:
    """One tensor of an answer."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[np.float32] | Sequence[bytes]
    binary: bool

    def raw(self) -> bytes:
        """Return it as the binary extension has it: each element of BYTES after its length."""
        if isinstance(self.values, np.ndarray):
            return self.values.tobytes()
        return b"".join(part for value in self.values for part in (LENGTH.pack(len(value)), value))

    def plain(self) -> list[float] | list[str]:
        """Return it as JSON has it, in one dimension."""
        if isinstance(self.values, np.ndarray):
            flat: list[float] = self.values.ravel().tolist()
            return flat
        return [value.decode() for value in self.values]


@dataclass(frozen=True)
class Answer:
    """One answer: the version of the task that gave it, and the depth to which it ran."""

    id: str
    version: int
    depth: int
    outputs: Sequence[MadeOutput]
    degraded: bool = False
    """Whether a shallower version answered under overload."""


def split_elements(raw: bytes, name: str) -> tuple[bytes, ...]:
    """Return the elements of BYTES, each of which follows its length in four bytes, the lowest first."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + LENGTH.size
        if end > len(raw):
            raise FormatError(f"input {name!r} ends within the length of element {len(elements)}: send four bytes")
        (nbytes,) = LENGTH.unpack_from(raw, at)
        at, end = end, end + nbytes
        if end > len(raw):
            raise FormatError(f"element {len(elements)} of input {name!r} is shorter than its length says: {nbytes:,}")
        if len(elements) == MOST_ELEMENTS:
            raise FormatError(f"input {name!r} has more than {MOST_ELEMENTS:,} elements: send fewer")
        elements.append(raw[at:end])
        at = end
    return tuple(elements)


def timeout_of(parameters: Json) -> float | None:
    """Return the seconds that the parameter `timeout`, in microseconds, gives; None where there is none."""
    microseconds = parameters.get("timeout", 0)
    if not isinstance(microseconds, int) or isinstance(microseconds, bool) or microseconds < 0:
        raise FormatError(f"parameter timeout {str(microseconds)[:40]!r}: give microseconds above 0")
    return microseconds / 1e6 if microseconds else None


def check_parameters(parameters: Json) -> None:
    """Raise where the request wants what a server without state and shared memory cannot do."""
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise FormatError("sequence_id: no task keeps a state between requests, so leave it out")
    if "shared_memory_region" in parameters:
        raise FormatError("shared_memory_region: this server shares no memory with its clients, so send the tensor")


def classes_of(parameters: Json) -> int:
    """Return how many classes the parameter `classification` of an output asks for, 0 without it."""
    classes = parameters.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise FormatError(f"parameter classification {str(classes)[:40]!r}: give the number of classes, from 1")
    return classes
