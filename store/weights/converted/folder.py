"""Everything that a published folder needs of a backbone: opened in the store, or loaded and still to be added."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from store.adapters.checkpoint import Checkpoint
from store.adapters.task_files import PROCESSOR, read_file
from store.adapters.tuned_folder import read_tuned
from store.errors import BackboneMismatchError, InvalidSettingError
from store.records.backbone import BackboneRecord
from store.records.blob import SHA256
from store.registry.read_only_store import ReadOnlyStore
from store.registry.store import Store
from store.weights.backbones import PACKAGED, Backbone, load_backbone, open_backbone
from store.weights.base_models.base_model import HUB, LOCAL, BaseModel, base_folder, load_base
from store.weights.base_models.image_processor import parse_processor, preprocessing_of
from store.weights.converted.task import convert_task


@dataclass(frozen=True)
class ConvertedFolder:
    """A task that was tuned with transformers, converted, and its base model as a backbone."""

    checkpoint: Checkpoint
    backbone: Backbone


def convert_folder(store: Store, folder: Path, *, backbone: str | None, depth: int | None) -> ConvertedFolder:
    """Convert a folder of transformers and PEFT; `backbone` is its base model: a folder, `hf-hub:…` or a known name.

    Raises a `RefusedError`, `UnservedBackboneError` or `BackboneNotFoundError`.
    """
    tuned = read_tuned(folder)
    base = _base_model(store, folder, tuned.settings.get("base_model_name_or_path"), backbone)
    checkpoint = convert_task(folder, tuned, base, depth=depth or base.backbone.record.blocks)
    return ConvertedFolder(checkpoint, base.backbone)


def find_backbone(store: ReadOnlyStore, name: str) -> Backbone | None:
    """Load a packaged backbone, one of a folder or of the Hub; None where the store has it, or it is another name."""
    if _known(store, name) is not None:
        return None
    named = name in PACKAGED or name.startswith((HUB, LOCAL)) or Path(name).is_dir()
    if named:
        loaded = load_backbone(name)
        return _with_free_name(store, loaded)
    for packaged in PACKAGED if SHA256.fullmatch(name) else ():
        loaded = load_backbone(packaged)
        if loaded.record.id.fingerprint == name:
            return _with_free_name(store, loaded)
    return None


def _base_model(store: Store, folder: Path, stated: object, backbone: str | None) -> BaseModel:
    processor = read_file(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else None
    name = backbone or _stated_name(store, folder, stated)
    known = _known(store, name)
    if known is not None:
        if processor is not None:
            _require_same_input(known, processor)
        return BaseModel(open_backbone(store, known), "", None, None)
    path = base_folder(name)
    if path is None:
        raise InvalidSettingError(
            f"{name[:200]!r} is neither a backbone of the store nor a model of transformers: give the folder or "
            "hf-hub: name of the base model with `backbone=`"
        )
    base = load_base(path, source=name, processor=processor)
    return BaseModel(_with_free_name(store, base.backbone), base.family, base.head, base.labels)


def _stated_name(store: ReadOnlyStore, folder: Path, stated: object) -> str:
    """Return the store's backbone that the adapter's config names, or raise: nothing is fetched unasked."""
    names = [stated, f"{HUB}{stated}"] if isinstance(stated, str) and stated else []
    known = next((name for name in names if isinstance(name, str) and _known(store, name) is not None), None)
    if known is None:
        raise BackboneMismatchError(
            f"{folder} was tuned on {str(stated)[:200]!r}, which the store does not have: name the base model with "
            "`backbone=`, as a folder or as hf-hub:OWNER/NAME"
        )
    return known


def _known(store: ReadOnlyStore, name: str) -> BackboneRecord | None:
    return next((r for r in store.backbones() if name in (r.name, r.id.fingerprint)), None)


def _with_free_name(store: ReadOnlyStore, backbone: Backbone) -> Backbone:
    """Return the backbone by the store's name for it; by another name where a different backbone has its own."""
    record = backbone.record
    known, holder = _known(store, record.id.fingerprint), _known(store, record.name)
    if known is not None:
        return replace(backbone, record=replace(record, name=known.name))
    if holder is None:
        return backbone
    return replace(backbone, record=replace(record, name=f"{record.name}-{record.id.fingerprint[:12]}"))


def _require_same_input(record: BackboneRecord, processor: bytes) -> None:
    preprocessing = preprocessing_of(parse_processor(processor, PROCESSOR), PROCESSOR)
    if preprocessing != record.id.preprocessing:
        raise BackboneMismatchError(
            f"the task's {PROCESSOR} prepares images as {preprocessing}, {record.name} as {record.id.preprocessing}: "
            "tune it with the backbone's image processor"
        )
