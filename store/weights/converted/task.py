"""An adapter that PEFT left on a model of transformers, as one of the same numbers on the fused maps of a timm ViT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from store.adapters.checkpoint import (
    CONFIG,
    HEAD,
    LABELS,
    WEIGHTS,
    Checkpoint,
    check_complete,
    labels_file,
    parse_checkpoint,
    read_card,
    read_head,
    read_labels,
)
from store.adapters.methods.peft import PEFT
from store.adapters.methods.spec import LINEAR, NORMS, block_number
from store.adapters.methods.supported import supported_method
from store.adapters.methods.targets import Config, is_feedforward, matches, resolve_pattern
from store.adapters.module_names import SEPARATE, ModuleNames
from store.adapters.safetensors_header import TensorInfo
from store.adapters.stored_tensors import write_stored
from store.adapters.task_files import LABELS as LABELS_FILE
from store.adapters.task_files import read_label_names
from store.adapters.tuned_folder import TunedFolder
from store.errors import AdapterMismatchError, HeadMismatchError, UnservedAdapterError
from store.records.geometry import LAST_NORM
from store.weights.base_models.base_model import BaseModel
from store.weights.converted.peft_files import encode_forms
from store.weights.forms import Delta, Forms
from store.weights.lowering.finite import require_finite, require_finite_file
from store.weights.lowering.lower import ADAPTER, LOWERINGS

STEM = "embeddings.patch_embeddings.projection"
FUSED = LINEAR[0]
PATTERNS = ("rank_pattern", "alpha_pattern", "lambda_pattern")

Shapes = Mapping[str, tuple[int, int]]


def convert_task(folder: Path, tuned: TunedFolder, base: BaseModel, *, depth: int) -> Checkpoint:
    """Return the task on the converted base model; raise a `RefusedError` where no adapter of a timm ViT is its equal.

    The head is the trained classifier, or the base model's own; the classes are those of `classes.txt`, or `id2label`
    of the folder's config or the base model's.
    """
    settings, weights = convert_adapter(tuned, base, depth=depth)
    head, changes = _head(folder, tuned, base)
    files = {CONFIG: settings, WEIGHTS: weights, HEAD: head, LABELS: _labels(folder, base), **read_card(folder)}
    kind = str(tuned.settings["peft_type"]).lower()
    note = f"converted a {kind} adapter of transformers, its query, key and value into timm's fused qkv"
    return replace(parse_checkpoint(files), changes=(*tuned.changes, *changes, note))


def convert_adapter(tuned: TunedFolder, base: BaseModel, *, depth: int) -> tuple[bytes, bytes]:
    """Return the config and the tensors of an adapter on the fused maps."""
    kind = tuned.settings.get("peft_type")
    if not isinstance(kind, str) or kind not in PEFT:
        supported_method({**tuned.settings})
        raise UnservedAdapterError(f"peft_type {kind!r} adapts timm models alone")
    names, record = tuned.names, base.backbone.record
    assert names is not None
    modules = separate(record.modules)
    settings = resolve_config(tuned.settings, names, modules)
    method = supported_method(settings)
    infos = {
        name: TensorInfo(tensor.dtype, tensor.shape, 0, len(tensor.data)) for name, tensor in tuned.tensors.items()
    }
    shapes = record.modules if method.name == "ln" else modules
    ranks = method.ranks(settings, infos, shapes)
    if not ranks:
        raise UnservedAdapterError(f"{WEIGHTS} has no tensors: save the tuned adapter with PEFT again")
    check_complete(settings, method, ranks, shapes, depth, base.backbone.record.geometry)
    stored = write_stored(tuned.tensors)
    tensors = load(stored)
    require_finite_file(tensors, ADAPTER)
    if method.name != "ln" and not any(path.endswith(SEPARATE) for path in ranks):  # the maps that both have alike
        return json.dumps(settings, indent=2).encode(), stored
    parted = separate_tensors(base.backbone.tensors)
    forms = fuse(require_finite(LOWERINGS[kind](settings, tensors, parted), torch.float32))
    encoded, numbers = encode_forms(forms, base.backbone.tensors)
    encoded["base_model_name_or_path"] = tuned.settings.get("base_model_name_or_path")
    narrow = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    return json.dumps(encoded, indent=2).encode(), save(in_narrow(numbers, narrow))


def separate(modules: Shapes) -> dict[str, tuple[int, int]]:
    """Return the linear maps as transformers has them: q, k and v in place of `qkv`."""
    parted: dict[str, tuple[int, int]] = {}
    for path, (out, width) in modules.items():
        if path.endswith(FUSED):
            parted |= {path.removesuffix(FUSED) + kind: (out // 3, width) for kind in SEPARATE}
        else:
            parted[path] = (out, width)
    return parted


def separate_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with q, k and v as parts of `qkv`'s memory."""
    parted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, found, part = name.partition(f"{FUSED}.")
        if found:
            parted |= {f"{stem}{kind}.{part}": third for kind, third in zip(SEPARATE, tensor.chunk(3), strict=True)}
        else:
            parted[name] = tensor
    return parted


def resolve_config(config: Config, names: ModuleNames, modules: Shapes) -> dict[str, object]:
    """Return the config with every module named in full, as a timm ViT with separate q, k and v would name it."""
    if matches(config, names.inner + STEM):
        raise AdapterMismatchError(
            f"target_modules names {STEM!r} too, which every task shares: adapt modules in the blocks alone"
        )
    numbers = range(max(map(block_number, modules)))
    norms = [*(f"blocks.{number}.{norm}" for number in numbers for norm in NORMS), LAST_NORM]
    originals = {path: names.original(path) for path in (*modules, *norms)}
    targets = [path for path, original in originals.items() if matches(config, original)]
    resolved = {**config, "target_modules": targets, "exclude_modules": None, "layers_to_transform": None}
    resolved["layers_pattern"] = None
    for option in PATTERNS:
        if config.get(option):
            values = {path: resolve_pattern(config, option, originals[path], None) for path in targets}
            resolved[option] = {path: value for path, value in values.items() if value is not None}
    if config.get("peft_type") == "ADALORA" and isinstance(patterns := config.get("rank_pattern"), dict):
        spelled = {f"{originals[path]}.lora_E": f"{path}.lora_E" for path in targets}
        resolved["rank_pattern"] = {spelled.get(str(key), str(key)): value for key, value in patterns.items()}
    if config.get("peft_type") == "IA3":
        resolved["feedforward_modules"] = [path for path in targets if is_feedforward(config, originals[path])]
    return resolved


def fuse(forms: Forms) -> Forms:
    """Join the deltas of q, k and v of each block: their ranks stand one after the other, zero in the others' rows."""
    fused: dict[str, Delta] = {}
    parts: dict[str, dict[str, Delta]] = {}
    for path, delta in forms.deltas.items():
        kind = path.split(".", 2)[2]
        if kind in SEPARATE:
            parts.setdefault(path.removesuffix(kind), {})[kind] = delta
        else:
            fused[path] = delta
    for block, deltas in parts.items():
        fused[block + FUSED] = _join(block, [deltas.get(kind) for kind in SEPARATE])
    ordered = sorted(fused, key=lambda path: (block_number(path), LINEAR.index(path.split(".", 2)[2])))
    return Forms({path: fused[path] for path in ordered}, forms.norms)


def _join(block: str, deltas: list[Delta | None]) -> Delta:
    present = [delta for delta in deltas if delta is not None]
    if any(delta.in_turn is not None for delta in present):
        raise UnservedAdapterError(
            f"{block}attn: the inputs of query, key and value are turned apart, which costs a copy of the map: "
            "adapt the other maps"
        )
    group = max(delta.group for delta in present)
    scales = [delta.in_scale for delta in present if delta.in_scale is not None]
    if scales and (len(scales) < 3 or not all(torch.equal(scales[0], scale) for scale in scales[1:])):
        raise UnservedAdapterError(
            f"{block}attn: the inputs of query, key and value are scaled apart, which costs a copy of the map: "
            "scale their outputs"
        )
    size = next(part.shape[2 if name != "b" else 1] for d in present for name, part in _outputs(d))
    downs, ups = [], []
    for index, delta in enumerate(deltas):
        if delta is not None and delta.a is not None and delta.b is not None:
            up = delta.b.new_zeros(1, 3 * size, delta.rank)
            up[:, index * size : (index + 1) * size] = delta.b
            downs.append(delta.a)
            ups.append(up)
    return Delta(
        torch.cat(downs, dim=1) if downs else None,
        torch.cat(ups, dim=2) if ups else None,
        _thirds([None if delta is None else delta.bias for delta in deltas], size, 0.0),
        in_scale=scales[0] if scales else None,
        out_scale=_thirds([None if delta is None else delta.out_scale for delta in deltas], size, 1.0),
        out_turn=_thirds([None if delta is None else delta.out_turn for delta in deltas], size, 0.0),
        group=group,
    )


def _outputs(delta: Delta) -> list[tuple[str, Tensor]]:
    parts = {"b": delta.b, "bias": delta.bias, "out_scale": delta.out_scale, "in_scale": delta.in_scale}
    return [(name, part) for name, part in parts.items() if part is not None]


def _thirds(vectors: list[Tensor | None], size: int, default: float) -> Tensor | None:
    if all(vector is None for vector in vectors):
        return None
    return torch.cat([torch.full((1, 1, size), default) if v is None else v for v in vectors], dim=2)


def in_narrow(tensors: Mapping[str, Tensor], dtypes: set[torch.dtype]) -> dict[str, Tensor]:
    """Return the tensors in the adapter's own dtype where that changes no number, else in float32."""
    if len(dtypes) == 1:
        (dtype,) = dtypes
        narrow = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        if all(torch.equal(narrow[name].float(), tensor.float()) for name, tensor in tensors.items()):
            return {name: tensor.contiguous() for name, tensor in narrow.items()}
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def _head(folder: Path, tuned: TunedFolder, base: BaseModel) -> tuple[bytes, tuple[str, ...]]:
    if tuned.head is not None or (folder / HEAD).exists():
        return read_head(folder, tuned)
    if base.head is None:
        raise HeadMismatchError(
            f"{folder} has no classifier, nor has its base model: train it with `modules_to_save`, or save it as {HEAD}"
        )
    head = {part: tensor.contiguous() for part, tensor in base.head.items()}
    return save(head), ("took the base model's classifier",)


def _labels(folder: Path, base: BaseModel) -> bytes:
    if (folder / LABELS_FILE).exists() or read_label_names(folder) is not None:
        return read_labels(folder)
    if base.labels is None:
        raise HeadMismatchError(
            f"{folder} does not name its classes: save {LABELS_FILE} there, one a line, or its model's config.json"
        )
    return labels_file(base.labels)
