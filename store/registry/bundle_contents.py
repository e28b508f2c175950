"""The index of a bundle, and its blobs; whatever is read is checked against its digest and its size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from store.adapters.checkpoint import Checkpoint, parse_checkpoint
from store.adapters.manifests import restore_files
from store.errors import FormatError
from store.records.backbone import BackboneRecord
from store.records.blob import Blob, canonical_json
from store.records.manifest import Manifest, decode
from store.records.refs import check_name
from store.registry.bundle_archive import INDEX, REMEDY, Member, blob_name, open_archive, read_member, read_members

BUNDLE_FORMAT = 1
"""Raise it when an older onetrunk would misread a new bundle, and teach `open_bundle` both."""

MAX_INDEX_NBYTES = 8 << 20  # some 40,000 versions
MAX_JSON_NBYTES = 4 << 20  # of any other: JSON takes up to some twenty times its size in memory
MAX_LABELS_NBYTES = 16 << 20
MEMBERS_OF_A_VERSION = 5  # its manifest and the blobs that it names
MEMBERS_OF_A_BACKBONE = 2  # its record and its weights


@dataclass(frozen=True)
class BundledVersion:
    """A version in a bundle; `version` and `aliases` are those of the store that it comes from."""

    task: str
    version: int
    aliases: tuple[str, ...]
    manifest: Blob

    def __post_init__(self) -> None:
        check_name(self.task, "task")

    def __str__(self) -> str:
        return f"{self.task}:{self.version}"


@dataclass(frozen=True)
class BundledBackbone:
    fingerprint: str
    record: Blob


@dataclass(frozen=True)
class Contents:
    """`bundle.json`: versions by task and number, backbones by fingerprint, each once."""

    versions: tuple[BundledVersion, ...]
    backbones: tuple[BundledBackbone, ...]
    format: int = BUNDLE_FORMAT

    def __post_init__(self) -> None:
        versions = [(version.task, version.version) for version in self.versions]
        backbones = [backbone.fingerprint for backbone in self.backbones]
        ordered = all(a < b for a, b in pairwise(versions)) and all(a < b for a, b in pairwise(backbones))
        if not versions or not backbones or not ordered or self.format < 1:
            raise FormatError(f"{INDEX} must name versions and backbones in their order, each once: {REMEDY}")

    def to_json(self) -> bytes:
        return canonical_json(dataclasses.asdict(self))


@dataclass(frozen=True)
class Bundle:
    """A bundle open for reading: every digest has been checked; the contents of a blob are checked when it is read."""

    file: BinaryIO
    where: str
    contents: Contents
    members: Mapping[str, Member]

    def holds(self, blob: Blob) -> bool:
        return blob.sha256 in self.members

    def read(self, blob: Blob) -> bytes:
        return read_member(self.file, self._member(blob), self.where)

    def record(self, backbone: BundledBackbone) -> BackboneRecord:
        data = self._read_json(backbone.record)
        record = decode(BackboneRecord, data, f"{self.where}: backbone record")
        _check_canonical(
            lambda: canonical_json(dataclasses.asdict(record)), data, f"{self.where}: record of backbone {record.name}"
        )
        if record.id.fingerprint != backbone.fingerprint:
            raise FormatError(f"{self.where}: backbone {record.name} has another fingerprint in {INDEX}: {REMEDY}")
        return record

    def manifest(self, version: BundledVersion) -> Manifest:
        data = self._read_json(version.manifest)
        subject = f"{self.where}: manifest of {version}"
        manifest = decode(Manifest, data, subject)
        _check_canonical(manifest.to_json, data, subject)
        if manifest.task != version.task:
            raise FormatError(f"{subject} is of {manifest.task}: {REMEDY}")
        return manifest

    def checkpoint(self, manifest: Manifest) -> Checkpoint:
        """Return the task's files as a folder would give them."""
        check_sizes(manifest, self.where)
        return parse_checkpoint(restore_files(manifest, self.read))

    def check_members(self) -> None:
        """Raise unless the bundle has every blob that its versions need, and no other."""
        needed = {b.record.sha256 for b in self.contents.backbones}
        needed |= {weights.sha256 for b in self.contents.backbones if (weights := self.record(b).weights) is not None}
        for version in self.contents.versions:
            blobs = (version.manifest, *self.manifest(version).blobs)
            needed |= {blob.sha256 for blob in blobs}
            for blob in blobs:
                self._member(blob)
        extra = sorted(self.members.keys() - needed)
        if extra:
            raise FormatError(f"{self.where}: {blob_name(extra[0])} is named by nothing: {REMEDY}")

    def _member(self, blob: Blob) -> Member:
        member = self.members.get(blob.sha256)
        if member is None or member.nbytes != blob.nbytes:
            problem = "is missing" if member is None else f"has {member.nbytes} bytes, not {blob.nbytes}"
            raise FormatError(f"{self.where}: {blob_name(blob.sha256)} {problem}: {REMEDY}")
        return member

    def _read_json(self, blob: Blob) -> bytes:
        _check_size(blob, MAX_JSON_NBYTES, self.where)
        return self.read(blob)


@contextmanager
def open_bundle(source: Path | BinaryIO) -> Iterator[Bundle]:
    """Read the whole bundle once; raise `FormatError` unless it is a bundle and each digest is right."""
    with open_archive(source) as (file, where):
        members = read_members(file, where)
        index = next(members)
        if index.nbytes > MAX_INDEX_NBYTES:
            raise FormatError(f"{where}: {INDEX} has {index.nbytes} bytes, at most {MAX_INDEX_NBYTES}: make several")
        data = read_member(file, index, where)
        contents = decode(Contents, data, f"{where}: {INDEX}", newest=BUNDLE_FORMAT)
        _check_canonical(contents.to_json, data, f"{where}: {INDEX}")
        limit = MEMBERS_OF_A_VERSION * len(contents.versions) + MEMBERS_OF_A_BACKBONE * len(contents.backbones)
        blobs: dict[str, Member] = {}
        for member in members:
            if len(blobs) == limit:
                raise FormatError(f"{where} has more than the {limit} blobs that {INDEX} can name: {REMEDY}")
            blobs[member.sha256] = member
        yield Bundle(file, where, contents, blobs)


def check_sizes(manifest: Manifest, where: str) -> None:
    """Raise `FormatError` where a text of the version is too large to be parsed in bounded memory."""
    _check_size(manifest.adapter.config, MAX_JSON_NBYTES, where)
    _check_size(manifest.head.labels, MAX_LABELS_NBYTES, where)


def _check_size(text: Blob, limit: int, where: str) -> None:
    if text.nbytes > limit:
        raise FormatError(
            f"{where}: {blob_name(text.sha256)} has {text.nbytes} bytes, a text of its kind at most {limit} in a bundle"
        )


def _check_canonical(encode: Callable[[], bytes], data: bytes, subject: str) -> None:
    """Raise unless these are the exact bytes that onetrunk writes for the value: no key twice, no NaN."""
    try:
        same = encode() == data
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise FormatError(f"{subject} is not written as onetrunk writes it: {REMEDY}")
