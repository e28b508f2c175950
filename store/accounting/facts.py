"""What a version's files say about its bytes: manifests and tensor headers, read quickly, once for each digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple, TypeVar

from store.adapters.safetensors_header import header_nbytes, parse_header
from store.backends.base import Backend
from store.backends.layout import blob_key
from store.errors import FormatError, IntegrityError, NewerFormatError, OnetrunkError
from store.records.geometry import MERGE, count_blocks
from store.records.manifest import MANIFEST_FORMAT
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex

T = TypeVar("T", WidthIndex, TokenIndex)
PREFIX_NBYTES = 1 << 14  # most headers are shorter; the others take a second read
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


class TensorFacts(NamedTuple):
    """What a tensor file's header says: its own size, the bytes of tensors, of those in blocks, and their types."""

    header_nbytes: int
    payload_nbytes: int
    block_nbytes: int
    elements: int
    dtype: str


class NamedBlob(NamedTuple):
    """A blob as a manifest names it; `Blob` would check the manifest again, which its digest does already."""

    sha256: str
    nbytes: int


class Named(NamedTuple):
    """What a manifest names."""

    config: NamedBlob
    adapter: NamedBlob
    head: NamedBlob
    labels: NamedBlob
    rank: int
    modules: tuple[str, ...]
    width: WidthIndex | None = None
    tokens: TokenIndex | None = None


BLOB = rb'\{"nbytes":(\d{1,15}),"sha256":"([0-9a-f]{64})"\}'
ADAPTER = re.compile(
    rb'\{"adapter":\{"config":'
    + BLOB
    + rb',"method":"[^"\\]*","modules":(\["[^\]\\]*"\]),"rank":(\d{1,9}),"weights":'
    + BLOB
)
HEAD = re.compile(rb',"format":(\d{1,9}),"head":\{"classes":\d+,"dim":\d+,"labels":' + BLOB + rb',"weights":' + BLOB)

INDEX = re.compile(rb'"(?:width|tokens)":')


class VersionFacts(NamedTuple):
    """A version's blobs by role, with the sizes that its manifest gives, and what their headers say."""

    config: NamedBlob
    adapter: NamedBlob
    head: NamedBlob
    labels: NamedBlob
    rank: int
    modules: tuple[str, ...]
    adapted_blocks: int
    adapter_tensors: TensorFacts
    head_tensors: TensorFacts
    width: WidthIndex | None = None
    tokens: TokenIndex | None = None


FactsCache = MutableMapping[str, VersionFacts]
"""Facts by the digest of a version's manifest: they never change, so a caller may keep them between reports."""


class FactsReader:
    """Read facts of versions; tensor files with equal headers, as those of one recipe have, are parsed once."""

    def __init__(self, backend: Backend, known: FactsCache) -> None:
        self._backend = backend
        self._known = known
        self._headers: dict[bytes, TensorFacts] = {}
        self._blocks: dict[tuple[str, ...], int] = {}
        self._modules: dict[bytes, tuple[str, ...]] = {}

    def read(self, task: str, manifest: NamedBlob) -> VersionFacts:
        """Return the facts, or raise an `OnetrunkError` that says why the bytes of the version cannot be divided."""
        found = self._known.get(manifest.sha256)
        if found is None:
            found = self._known[manifest.sha256] = self._read(task, manifest)
        return found

    def _read(self, task: str, manifest: NamedBlob) -> VersionFacts:
        key = blob_key(manifest.sha256)
        try:
            data = self._backend.read_prefix(key, manifest.nbytes)  # as many as there are: one call, not three
        except FileNotFoundError:
            raise self._missing(key) from None
        if hashlib.sha256(data).hexdigest() != manifest.sha256:
            where = self._backend.locate(key)
            raise IntegrityError(
                f"{where} is not what its digest names: restore it from a copy, or publish {task} again"
            )
        named = self._named_in(data) or self._decode(data, manifest, task)
        return VersionFacts(
            named.config,
            named.adapter,
            named.head,
            named.labels,
            named.rank,
            named.modules,
            self._adapted_blocks(named.modules),
            self._tensors(named.adapter),
            self._tensors(named.head),
            named.width,
            named.tokens,
        )

    def _named_in(self, data: bytes) -> Named | None:
        """Find in a manifest's canonical JSON what `_decode` finds, in a tenth of its time; None where it may differ.

        The keys are sorted, and in no string is a quote without a backslash, so that the first match is the part.
        """
        adapter = ADAPTER.match(data)
        head = None if adapter is None else HEAD.search(data, adapter.end())
        if adapter is None or head is None or int(head[1]) > MANIFEST_FORMAT or INDEX.search(data):
            return None
        modules = self._modules.get(adapter[3])
        if modules is None:
            modules = self._modules[adapter[3]] = tuple(json.loads(adapter[3]))
        return Named(
            NamedBlob(adapter[2].decode(), int(adapter[1])),
            NamedBlob(adapter[6].decode(), int(adapter[5])),
            NamedBlob(head[5].decode(), int(head[4])),
            NamedBlob(head[3].decode(), int(head[2])),
            int(adapter[4]),
            modules,
        )

    def _adapted_blocks(self, modules: tuple[str, ...]) -> int:
        if modules not in self._blocks:
            self._blocks[modules] = count_blocks(modules)
        return self._blocks[modules]

    def _tensors(self, blob: NamedBlob) -> TensorFacts:
        key = blob_key(blob.sha256)
        try:
            prefix = self._backend.read_prefix(key, min(PREFIX_NBYTES, blob.nbytes))
        except FileNotFoundError:
            raise self._missing(key) from None
        size = header_nbytes(prefix, key)
        if size > len(prefix):
            prefix = self._backend.read_prefix(key, min(size, blob.nbytes))
        header = prefix[:size]
        facts = self._headers.get(header)
        if facts is None or facts.header_nbytes + facts.payload_nbytes != blob.nbytes:
            facts = self._headers[header] = _parse(header, blob.nbytes, self._backend.locate(key))
        return facts

    def _decode(self, data: bytes, manifest: NamedBlob, task: str) -> Named:
        """Decode without the checks of `Manifest`, which take five times as long: the digest says it is the same."""
        try:
            value = json.loads(data.decode())
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise FormatError(f"manifest {manifest.sha256} is not JSON: publish {task} again")
        if isinstance(value.get("format"), int) and value["format"] > MANIFEST_FORMAT:
            raise NewerFormatError(
                f"manifest of {task} has format {value['format']}, this onetrunk reads up to {MANIFEST_FORMAT}: "
                "upgrade onetrunk"
            )
        try:
            adapter, head = value["adapter"], value["head"]
            return Named(
                _blob(adapter["config"]),
                _blob(adapter["weights"]),
                _blob(head["weights"]),
                _blob(head["labels"]),
                int(adapter["rank"]),
                tuple(adapter["modules"]),
                _index(WidthIndex, value["prune_index"].get("width")),
                _index(TokenIndex, value["prune_index"].get("tokens")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, OnetrunkError):
                raise
            where = self._backend.locate(blob_key(manifest.sha256))
            raise FormatError(f"{where} is not a manifest: publish {task} again") from None

    def _missing(self, key: str) -> IntegrityError:
        return IntegrityError(f"{self._backend.locate(key)} is missing: restore it from a copy, or publish again")


def _parse(header: bytes, nbytes: int, source: str) -> TensorFacts:
    infos = parse_header(header, nbytes, source)
    payload = sum(info.nbytes for info in infos.values())
    dtypes = sorted({DTYPES.get(info.dtype, info.dtype) for info in infos.values()})
    elements = 0
    for info in infos.values():
        count = 1
        for side in info.shape:
            count *= side
        elements += count
    in_blocks = sum(info.nbytes for name, info in infos.items() if "blocks." in name or f"{MERGE}." in name)
    return TensorFacts(nbytes - payload, payload, in_blocks, elements, "+".join(dtypes) or "none")


def _index(cls: type[T], value: Mapping[str, Any] | None) -> T | None:
    return None if value is None else cls(**value)


def _blob(value: Mapping[str, Any]) -> NamedBlob:
    return NamedBlob(value["sha256"], value["nbytes"])
