"""A task's folder, as PEFT and a linear head leave it, and the checks before it is published."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from store.adapters.methods.spec import block_number
from store.adapters.methods.supported import FLOATS, Method, matches, supported_method
from store.adapters.regular_file import read_regular
from store.adapters.safetensors_header import TensorInfo, check_header, check_tensors
from store.adapters.widths import check_width, narrowed_shapes
from store.errors import (
    AdapterMismatchError,
    BackboneMismatchError,
    FormatError,
    HeadMismatchError,
    NotFoundError,
    UnservedAdapterError,
)
from store.records.backbone import BackboneRecord
from store.records.manifest import Card

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HEAD = "head.safetensors"
LABELS = "classes.txt"
CARD = "onetrunk.json"
LIMITS = {CONFIG: 1 << 20, WEIGHTS: 1 << 32, HEAD: 1 << 32, LABELS: 1 << 22, CARD: 1 << 20}  # bytes
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy"})

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


@dataclass(frozen=True)
class AdapterSummary:
    """The method of a checked checkpoint, and each adapted module with its rank, from the first block up."""

    method: str
    ranks: Mapping[str, int]


def read_checkpoint(folder: Path) -> Checkpoint:
    if not folder.is_dir():
        raise NotFoundError(f"no folder {folder}: give the one that holds {CONFIG}, {WEIGHTS}, {HEAD} and {LABELS}")
    for name in (WEIGHTS, HEAD):
        _refuse_pickle(folder, name)
    if not (folder / HEAD).exists() and (folder / CONFIG).exists():
        supported_method(_parse_config(_read(folder / CONFIG)))  # it may say where the head is
    names = (CONFIG, WEIGHTS, HEAD, LABELS, *([CARD] if os.path.lexists(folder / CARD) else []))
    return parse_checkpoint({name: _read(folder / name) for name in names})


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
        settings=_parse_config(files[CONFIG]),
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
    method = supported_method(checkpoint.settings)
    shapes = _shapes(checkpoint.card, record, depth)
    ranks = method.ranks(checkpoint.settings, checkpoint.adapter_infos, shapes)
    _check_depth(ranks, depth)
    _check_complete(checkpoint.settings, method, ranks, record, depth)
    _check_head(checkpoint, record)
    modules = sorted(ranks, key=lambda module: (block_number(module), module))
    return AdapterSummary(method.name_for(checkpoint.settings), {module: ranks[module] for module in modules})


def _shapes(card: Card | None, record: BackboneRecord, depth: int) -> Mapping[str, tuple[int, int]]:
    """Return the shapes of the linear maps that the adapter changes: the backbone's, or those that its width leaves."""
    width = card.prune_index.width if card else None
    if width is None:
        return record.modules
    check_width(width, record, depth)
    return narrowed_shapes(record, width)


def _refuse_pickle(folder: Path, name: str) -> None:
    pickles = [] if (folder / name).exists() else [path for path in folder.iterdir() if path.suffix in PICKLES]
    if pickles:
        raise FormatError(
            f"{folder} has no {name}, and {min(pickles).name} is a pickle, which can run code and is not read: "
            "load it where you trust it and save it as safetensors, PEFT's with save_pretrained()"
        )


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, limit=LIMITS[path.name], check=check_header if path.name in (WEIGHTS, HEAD) else None)
    except FileNotFoundError:
        raise FormatError(
            f"{path.parent} has no {path.name}: a task's folder holds {CONFIG}, {WEIGHTS}, {HEAD} and {LABELS}"
        ) from None


def _parse_config(data: bytes) -> Mapping[str, object]:
    try:
        settings = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{CONFIG} is not JSON ({error}): save the adapter with PEFT again") from None
    if not isinstance(settings, dict):
        raise FormatError(f"{CONFIG} is not an object: save the adapter with PEFT again")
    return settings


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


def _check_depth(ranks: Mapping[str, int], depth: int) -> None:
    if not ranks:
        raise UnservedAdapterError(f"{WEIGHTS} has no tensors: save the tuned adapter with PEFT again")
    deepest = max(ranks, key=block_number)
    if block_number(deepest) > depth:
        raise AdapterMismatchError(
            f"module {deepest!r} is in block {block_number(deepest)}, above depth {depth}: "
            f"remove the adapters above it, or publish at depth {block_number(deepest)}"
        )


def _check_complete(
    settings: Mapping[str, object], method: Method, ranks: Mapping[str, int], record: BackboneRecord, depth: int
) -> None:
    # PEFT fills a missing factor with fresh random numbers and says nothing, so the answers would not be the task's.
    if matches(settings, STEM):
        raise AdapterMismatchError(
            f"target_modules names {STEM!r} too, which every task shares: name modules by full path, such as "
            "'blocks.0.attn.proj'"
        )
    for module in method.modules(record.modules):
        if block_number(module) <= depth and module not in ranks and matches(settings, module):
            raise AdapterMismatchError(
                f"target_modules names {module!r}, {WEIGHTS} has no tensors for it: save both with PEFT again"
            )


def _check_head(checkpoint: Checkpoint, record: BackboneRecord) -> None:
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
    if weight[1] != record.dim:
        raise HeadMismatchError(
            f"the head takes {weight[1]} features, {record.name} gives {record.dim}: train it on that backbone"
        )
