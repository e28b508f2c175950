"""Publishing: the options, the checks before anything is written, and the lease that protects new blobs."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from store.adapters.checkpoint import Checkpoint, check
from store.adapters.manifests import ManifestDraft, build_manifest
from store.adapters.safetensors_header import check_tensors
from store.backends.blobs import Blobs
from store.catalogue.aliases import check_rule, rule_of
from store.catalogue.backbones import check_backbone_name
from store.catalogue.catalogue import Catalogue
from store.catalogue.leases import PUBLISHING
from store.errors import BackboneMismatchError, InvalidSettingError, OnetrunkError
from store.records.backbone import BackboneRecord
from store.records.blob import Blob, canonical_json
from store.records.bounds import check_list
from store.records.refs import check_name
from store.registry.read_only_store import ReadOnlyStore

PUBLISH_S = 3600.0  # how long a publish may take from its first blob to its version


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """How to publish: `backbone` and `depth` stand in for a missing card, `aliases` move to the version.

    `force` moves protected aliases too; it opens no gate.
    """

    backbone: str | None = None
    depth: int | None = None
    aliases: tuple[str, ...] = ()
    force: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.aliases, str):
            raise InvalidSettingError(f"aliases {self.aliases!r} is one string: give a tuple, ({self.aliases!r},)")
        check_list("aliases", self.aliases)
        if self.depth is not None and type(self.depth) is not int:
            raise InvalidSettingError(f"depth {self.depth!r} is not a whole number: give how many blocks run")


DEFAULT = PublishOptions()
"""The backbone and depth of the card, and no alias but `latest`."""


def draft_version(
    store: ReadOnlyStore, task: str, checkpoint: Checkpoint, *, where: str, options: PublishOptions
) -> ManifestDraft:
    """Check the checkpoint, its backbone and the rules of the aliases; return the version to publish."""
    record = _backbone_of(store, checkpoint, where, options.backbone)
    depth = options.depth if options.depth is not None else _default_depth(checkpoint, record)
    draft = build_manifest(task, checkpoint, check(checkpoint, record, depth), record, depth)
    for alias in options.aliases:
        current = store.queries.find(task, alias=check_name(alias, "alias"))
        if current is None or current.manifest != draft.entry.manifest:
            rule = rule_of(store.queries, task, alias)
            check_rule(rule, task, draft.manifest.certificate, force=options.force)
    return draft


def add_backbone(
    store: ReadOnlyStore, catalogue: Catalogue, record: BackboneRecord, weights: bytes | None
) -> BackboneRecord:
    """Keep the backbone, and its weights unless None; return the record that the store has now.

    A known fingerprint keeps its name, and its weights if it has them.
    """
    blob = None if weights is None else Blob.of(weights)
    if blob is not None and weights is not None:
        store.fingerprints.check(record, weights, sha256=blob.sha256)
        check_tensors(weights, f"weights of backbone {record.name}")
    while True:
        row = store.queries.backbone(record.id.fingerprint)
        kept = dataclasses.replace(record, name=row.name if row else record.name, weights=blob)
        encoded = canonical_json(dataclasses.asdict(kept))
        contents = {Blob.of(encoded): encoded} | ({blob: weights} if blob and weights is not None else {})
        same = row is not None and row.record == Blob.of(encoded).sha256
        if row is not None and not same:
            known = store.backbone(record.id.fingerprint)
            if known.weights is not None or weights is None:
                return known
        check_backbone_name(store.queries, kept.name, record.id.fingerprint)
        with leased(catalogue, store.blobs, contents) as lease:
            if same:  # writing the blobs again has repaired those that were damaged
                catalogue.release(lease)
                return kept
            if catalogue.put_backbone(kept, Blob.of(encoded), seen=row, lease=lease):
                return kept


@contextmanager
def leased(catalogue: Catalogue, blobs: Blobs, contents: Mapping[Blob, bytes]) -> Iterator[str]:
    """Take a lease on the blobs, then write those that are missing; the transaction that references them ends it."""
    identifier = uuid.uuid4().hex
    digests = [blob.sha256 for blob in contents]
    catalogue.lease(identifier, digests, holder=PUBLISHING, expires_at=time.time() + PUBLISH_S)
    try:
        for data in contents.values():
            blobs.put(data)
        yield identifier
    except BaseException:
        with suppress(OnetrunkError):  # otherwise it expires
            catalogue.release(identifier)
        raise


def _backbone_of(store: ReadOnlyStore, checkpoint: Checkpoint, where: str, name: str | None) -> BackboneRecord:
    name = name or (checkpoint.card.backbone if checkpoint.card else None)
    if name is None:
        names = ", ".join(store.backbone_names()) or "none yet"
        raise BackboneMismatchError(
            f"{where} does not say its backbone, and PEFT keeps none: name it with `backbone=`; the store has {names}"
        )
    return store.backbone(name)


def _default_depth(checkpoint: Checkpoint, record: BackboneRecord) -> int:
    return checkpoint.card.prune_index.depth if checkpoint.card else record.blocks
