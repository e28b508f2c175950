"""A task's folder, as PEFT and a linear head leave it, and the checks before it is published."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from store.adapters.depths import check_depth
from store.adapters.methods.supported import FLOATS, Method, matches, supported_method
from store.adapters.module_names import LAYER, STAGE
from store.adapters.safetensors_header import TensorInfo, check_tensors
from store.adapters.stored_tensors import read_stored, write_stored
from store.adapters.task_files import (
    CARD,
    CONFIG,
    HEAD,
    LABELS,
    LIMITS,
    MODEL,
    WEIGHTS,
    parse_config,
    read_file,
    read_label_names,
    refuse_pickle,
)
from store.adapters.tuned_folder import TunedFolder, head_of, unwrap
from store.adapters.widths import check_tokens, check_width, narrowed_shapes
from store.errors import (
    AdapterMismatchError,
    BackboneMismatchError,
    FormatError,
    HeadMismatchError,
    NotFoundError,
    UnservedAdapterError,
)
from store.records.backbone import BackboneRecord
from store.records.geometry import Geometry
from store.records.manifest import Card

__all__ = [
    "CARD", "CONFIG", "HEAD", "LABELS", "LIMITS", "WEIGHTS", "AdapterSummary", "Checkpoint", "check", "check_complete",
    "drop_above",
    "labels_file", "parse_checkpoint", "parse_classes", "read_card", "read_checkpoint", "read_head", "read_labels",
    "require_folder",
]  # fmt: skip

STEM = "patch_embed.proj"
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")  # and what turns text around


@dataclass(frozen=True)
class Checkpoint:
    """The bytes of a task's files and what they say; the card is None where the folder has none."""

    config: bytes
    weights: bytes
    head: bytes
    labels: bytes
    card: Card | None
    settings: Mapping[str, object]
    adapter_infos: Mapping[str, TensorInfo]
    head_infos: Mapping[str, TensorInfo]
    classes: tuple[str, ...]
    changes: tuple[str, ...] = ()
    """What was changed of the folder that it was read from, in words; no number is."""


@dataclass(frozen=True)
class AdapterSummary:
    """The method of a checked checkpoint, and each adapted module with its rank, from the first block up."""

    method: str
    ranks: Mapping[str, int]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a task's folder as PEFT on a timm ViT left it, or a training loop that wrapped the model.

    Raises `NotFoundError`, `FormatError` or a `RefusedError`.
    """
    require_folder(folder)
    config, weights = read_file(folder / CONFIG), read_file(folder / WEIGHTS)
    settings, stored = parse_config(config), read_stored(weights, WEIGHTS)
    tuned = unwrap(settings, stored)
    if tuned.names is not None and not tuned.names.is_timm:
        raise UnservedAdapterError(
            f"{folder} was tuned with transformers, and its base model has to be converted with it: "
            "publish it with `publish_folder(store, task, folder)`"
        )
    files = {
        CONFIG: config if tuned.settings == settings else json.dumps(tuned.settings, indent=2).encode(),
        WEIGHTS: weights if list(tuned.tensors) == list(stored) else write_stored(tuned.tensors),
        **read_card(folder),
    }
    head, changes = read_head(folder, tuned)
    checkpoint = parse_checkpoint({**files, HEAD: head, LABELS: read_labels(folder)})
    return replace(checkpoint, changes=(*tuned.changes, *changes))


def require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise NotFoundError(f"no folder {folder}: give the one that holds {CONFIG}, {WEIGHTS}, {HEAD} and {LABELS}")
    refuse_pickle(folder, WEIGHTS)


def read_card(folder: Path) -> dict[str, bytes]:
    return {CARD: read_file(folder / CARD)} if os.path.lexists(folder / CARD) else {}


def read_head(folder: Path, tuned: TunedFolder) -> tuple[bytes, tuple[str, ...]]:
    """Return the head's file, and what was changed: it may lie in `modules_to_save` or in a timm state dict."""
    if tuned.head is not None:
        if os.path.lexists(folder / HEAD):
            raise HeadMismatchError(f"{folder} has a head in {WEIGHTS} and in {HEAD}: keep one of the two")
        return write_stored(tuned.head), ()
    source = HEAD if os.path.lexists(folder / HEAD) or not (folder / MODEL).is_file() else MODEL
    refuse_pickle(folder, source)
    data = read_file(folder / source)
    stored = read_stored(data, source)
    head = head_of(stored, source)
    if head is stored:
        return data, ()
    return write_stored(head), (f"took the head from the state dict in {source}",)


def read_labels(folder: Path) -> bytes:
    """Return the class names of `classes.txt`, or as such a file those of the model's `config.json`."""
    if os.path.lexists(folder / LABELS):
        return read_file(folder / LABELS)
    names = read_label_names(folder)
    return read_file(folder / LABELS) if names is None else labels_file(names)


def labels_file(names: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode(errors="replace")


def drop_above(checkpoint: Checkpoint, depth: int, geometry: Geometry) -> Checkpoint:
    """Return the checkpoint without the adapters of the blocks above the depth, which do not run."""
    stored = read_stored(checkpoint.weights, WEIGHTS)
    kept = {name: tensor for name, tensor in stored.items() if _block_of(name, geometry) <= depth}
    if len(kept) == len(stored):
        return checkpoint
    if checkpoint.settings.get("peft_type") == "TINYLORA":
        raise UnservedAdapterError(
            "TinyLoRA shares numbers by the count of its modules, so that none of them can be dropped: tune it on the "
            f"blocks up to {depth}, or publish it deeper"
        )
    blocks = sorted({_block_of(name, geometry) for name in stored if name not in kept})
    weights = write_stored(kept)
    return replace(
        checkpoint,
        weights=weights,
        adapter_infos=check_tensors(weights, WEIGHTS),
        changes=(*checkpoint.changes, f"dropped the adapters of blocks {', '.join(map(str, blocks))}"),
    )


def _block_of(tensor: str, geometry: Geometry) -> int:
    match = (STAGE if geometry.staged else LAYER).search(tensor)
    return 0 if match is None else geometry.number(match[0])


def parse_checkpoint(files: Mapping[str, bytes]) -> Checkpoint:
    """Parse the files of a task's folder, given as bytes by name; the card may be missing."""
    for name, data in files.items():
        if len(data) > LIMITS[name]:
            raise FormatError(f"{name} has {len(data)} bytes, at most {LIMITS[name]} are read: is it the right file?")
    return Checkpoint(
        config=files[CONFIG],
        weights=files[WEIGHTS],
        head=files[HEAD],
        labels=files[LABELS],
        card=Card.from_json(files[CARD]) if CARD in files else None,
        settings=parse_config(files[CONFIG]),
        adapter_infos=check_tensors(files[WEIGHTS], WEIGHTS),
        head_infos=check_tensors(files[HEAD], HEAD),
        classes=parse_classes(files[LABELS]),
    )


def parse_classes(labels: bytes) -> tuple[str, ...]:
    """Return the class names of `classes.txt`, in the order of the head's rows."""
    try:
        lines = labels.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{LABELS} is not UTF-8 ({error}): save it as UTF-8") from None
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line != line.strip() or UNPRINTABLE.search(line):
            raise HeadMismatchError(
                f"{LABELS} line {number} is {line[:80]!r}: a class name is not empty, has no space at its ends "
                "and no control character; end lines with a line feed alone"
            )
        if line in seen:
            raise HeadMismatchError(
                f"{LABELS} lines {seen[line]} and {number} are both {line[:80]!r}: name each class once"
            )
        seen[line] = number
    return tuple(lines)


def check(checkpoint: Checkpoint, record: BackboneRecord, depth: int) -> AdapterSummary:
    """Raise a `RefusedError` unless blocks 1..depth of the backbone, with adapters and head, serve the task."""
    if not 1 <= depth <= record.blocks:
        raise AdapterMismatchError(
            f"depth {depth} is outside 1..{record.blocks}, the blocks of {record.name}: choose one within"
        )
    if checkpoint.card is not None:
        _check_card(checkpoint.card, record, depth)
        check_tokens(checkpoint.card.prune_index.tokens, record, depth, method=checkpoint.settings["peft_type"])
    method = supported_method(checkpoint.settings)
    shapes = _shapes(checkpoint.card, record, depth)
    ranks = method.ranks(checkpoint.settings, checkpoint.adapter_infos, shapes)
    check_depth(ranks, depth, record.geometry)
    check_complete(checkpoint.settings, method, ranks, record.modules, depth, record.geometry)
    _check_head(checkpoint, record, depth)
    modules = sorted(ranks, key=lambda module: (record.geometry.number(module), module))
    return AdapterSummary(method.name_for(checkpoint.settings), {module: ranks[module] for module in modules})


def _shapes(card: Card | None, record: BackboneRecord, depth: int) -> Mapping[str, tuple[int, int]]:
    """Return the shapes of the linear maps that the adapter changes: the backbone's, or those that its width leaves."""
    width = card.prune_index.width if card else None
    if width is None:
        return record.modules
    check_width(width, record, depth)
    return narrowed_shapes(record, width)


def _check_card(card: Card, record: BackboneRecord, depth: int) -> None:
    if card.backbone != record.id.fingerprint:
        raise BackboneMismatchError(
            f"the task was made on backbone {card.backbone}, {record.name} is {record.id.fingerprint}: "
            "add that backbone with `adopt_backbone(store, name)`"
        )
    if card.prune_index.blocks != record.blocks:
        raise BackboneMismatchError(
            f"{CARD} declares {card.prune_index.blocks} blocks, {record.name} has {record.blocks}: "
            "tune the task again on this backbone"
        )
    if card.prune_index.depth != depth:
        raise AdapterMismatchError(
            f"{CARD} says depth {card.prune_index.depth}, not {depth}: leave out `depth=`, or cut again"
        )


def check_complete(
    settings: Mapping[str, object],
    method: Method,
    ranks: Mapping[str, int],
    modules: Mapping[str, tuple[int, int]],
    depth: int,
    geometry: Geometry,
) -> None:
    """Raise `AdapterMismatchError` where the config names a module, in the blocks up to the depth, without tensors."""
    # PEFT fills a missing factor with fresh random numbers and says nothing, so the answers would not be the task's.
    if matches(settings, STEM):
        raise AdapterMismatchError(
            f"target_modules names {STEM!r} too, which every task shares: name modules by full path, such as "
            f"'{geometry.paths[0]}.attn.proj'"
        )
    for module in method.modules(modules):
        if geometry.number(module) <= depth and module not in ranks and matches(settings, module):
            raise AdapterMismatchError(
                f"target_modules names {module!r}, {WEIGHTS} has no tensors for it: save both with PEFT again"
            )


def _check_head(checkpoint: Checkpoint, record: BackboneRecord, depth: int) -> None:
    infos, classes = checkpoint.head_infos, len(checkpoint.classes)
    if infos.keys() != {"weight", "bias"} or any(info.dtype not in FLOATS for info in infos.values()):
        dtypes = {name[:40]: info.dtype for name, info in list(infos.items())[:4]}
        raise HeadMismatchError(f"{HEAD} has {dtypes}: it must have weight and bias alone, each {', '.join(FLOATS)}")
    weight, bias = infos["weight"].shape, infos["bias"].shape
    if len(weight) != 2 or bias != weight[:1]:
        raise HeadMismatchError(f"{HEAD} has weight {weight} and bias {bias}: expected (classes, dim) and (classes,)")
    if weight[0] != classes or classes < 2:
        raise HeadMismatchError(
            f"the head is {weight[0]} wide, {LABELS} names {classes} classes: they must be equal and at least 2"
        )
    if weight[1] not in record.head_widths(depth):
        widths = " or ".join(map(str, record.head_widths(depth)))
        at = f" at depth {depth}" if record.geometry.staged else ""
        raise HeadMismatchError(
            f"the head takes {weight[1]} features, {record.name} gives {widths}{at}: train it on that backbone"
        )
