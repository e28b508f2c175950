"""A task's folder as a training loop left it, and what it says once nothing is wrapped around it any more.

No number changes: tensors get the names that PEFT gives them, and the head gets a file of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from store.adapters.methods.custom import CUSTOM
from store.adapters.methods.spec import LINEAR, NORMS, PREFIX, TensorSpec
from store.adapters.methods.supported import SUPPORTED
from store.adapters.methods.targets import Config, matches
from store.adapters.module_names import HEAD as HEAD_NAME
from store.adapters.module_names import LAYER, STAGE, ModuleNames, find_names, timm_name
from store.adapters.stored_tensors import StoredTensor, read_stored
from store.adapters.task_files import CONFIG, HEAD, WEIGHTS, parse_config, read_file, read_header
from store.errors import AdapterMismatchError, HeadMismatchError
from store.records.geometry import MERGE

Tensors = Mapping[str, StoredTensor]
MERGE_MAPS = ("reduction", "norm")
SAVED = re.compile(r"modules_to_save\.(?:[\w-]+\.)?")
HEADS = ("head", "classifier", "fc", "score")  # PEFT names some that a model may not have
NAMING = ("target_modules", "exclude_modules", "feedforward_modules", "rank_pattern", "alpha_pattern", "lambda_pattern")


@dataclass(frozen=True)
class TunedFolder:
    """An adapter without wrappers: its config, its tensors by PEFT's names on a timm ViT, and its head if it has one.

    `names` says how the file spelled the modules; an adapter of transformers has q, k and v apart, and its config still
    names modules as transformers does. `changes` says in words what was changed.
    """

    settings: Config
    tensors: Tensors
    names: ModuleNames | None
    head: Tensors | None
    changes: tuple[str, ...]


def is_of_transformers(folder: Path) -> bool:
    """Say whether the adapter in the folder was tuned with transformers, by the header of its tensors alone."""
    if not (folder / WEIGHTS).is_file():
        return False
    names = find_names(read_header(folder / WEIGHTS))
    return names is not None and not names.is_timm


def read_tuned(folder: Path) -> TunedFolder:
    """Read an adapter of timm or transformers; raise `FormatError` or a `RefusedError` where it cannot be read."""
    return unwrap(parse_config(read_file(folder / CONFIG)), read_stored(read_file(folder / WEIGHTS), WEIGHTS))


def unwrap(settings: Config, stored: Tensors) -> TunedFolder:
    """Take away what wrapped the model: prefixes, the adapter's name, and the head among its tensors."""
    names, changes = find_names(stored), []
    rest: Tensors = {name: tensor for name, tensor in stored.items() if not _is_head(name)}
    head = _saved_head({name: tensor for name, tensor in stored.items() if _is_head(name)})
    if head is not None:
        changes.append("took the head from modules_to_save")
    home = "" if _kind(settings) in CUSTOM else PREFIX
    if names is not None and not (names.is_timm and names.prefix == home):
        rest = _renamed(rest, names, home)
        if names.is_timm:
            changes.append(f"took the prefix {names.prefix!r} from the names of its tensors")
    word, rest = _without_adapter_name(settings, rest)
    if word is not None:
        changes.append(f"took the adapter's name {word!r} from the names of its tensors")
    settings = dict(settings)
    saved = settings.get("modules_to_save")
    if isinstance(saved, list) and all(isinstance(name, str) and name.rpartition(".")[2] in HEADS for name in saved):
        settings["modules_to_save"] = None
    if names is not None and names.is_timm and names.inner:
        settings = _without_inner(settings, names, rest)
    return TunedFolder(settings, rest, names, head, tuple(changes))


def head_of(tensors: Tensors, source: str) -> Tensors:
    """Return weight and bias of a head's file: alone, or within the state dict of a timm model."""
    if tensors.keys() <= {"weight", "bias"} or not any(_is_head(name) for name in tensors):
        return tensors
    head = _saved_head({name: tensor for name, tensor in tensors.items() if _is_head(name)})
    if head is None:
        raise HeadMismatchError(f"{source} has no head.weight: save the head's weight and bias as {HEAD}")
    return head


def _kind(settings: Config) -> str:
    kind = settings.get("peft_type")
    return kind if isinstance(kind, str) else ""


def _is_head(name: str) -> bool:
    return LAYER.search(name) is None and HEAD_NAME.fullmatch(name) is not None


def _saved_head(tensors: Tensors) -> Tensors | None:
    """Return the trained head by `weight` and `bias`; what it was before training goes."""
    heads: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        match = HEAD_NAME.fullmatch(name)
        assert match is not None, name
        if match["rest"] and SAVED.fullmatch(match["rest"]) is None:
            if match["rest"] == "original_module.":
                continue
            raise HeadMismatchError(
                f"tensor {name[:120]!r} is a head of more than one linear map: train one linear layer as the head"
            )
        heads.setdefault(match["module"], {})[match["part"]] = tensor
    if len(heads) > 1:
        raise HeadMismatchError(f"the adapter has {len(heads)} heads ({', '.join(sorted(heads))}): keep one of them")
    for module, head in heads.items():
        if "weight" not in head:
            raise HeadMismatchError(f"the adapter has {module}.bias without {module}.weight: save it with PEFT again")
        weight = head["weight"]
        if "bias" not in head and len(weight.shape) == 2:
            width = len(weight.data) // max(1, weight.shape[0] * weight.shape[1])
            head["bias"] = replace(weight, shape=weight.shape[:1], data=bytes(width * weight.shape[0]))
        return head
    return None


def _renamed(tensors: Tensors, names: ModuleNames, home: str) -> dict[str, StoredTensor]:
    renamed: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        new = timm_name(name, names, home)
        if new in renamed:
            raise AdapterMismatchError(f"the adapter has two tensors for {new[:120]!r}: save it with PEFT again")
        renamed[new] = tensor
    return renamed


def _without_adapter_name(settings: Config, tensors: Tensors) -> tuple[str | None, Tensors]:
    """Strip the adapter's name that a model's own state dict has in every tensor, such as `default`."""
    method = SUPPORTED.get(_kind(settings))
    if method is None or not isinstance(method.ranks, TensorSpec):
        return None, tensors
    part = re.compile(rf".+\.(?:{method.ranks.parts})")
    unknown = [
        name
        for name in tensors
        if name.startswith((f"{PREFIX}blocks.", f"{PREFIX}layers.")) and part.fullmatch(name) is None
    ]
    words = {word for name in unknown for word in _extra_words(name, part)}
    if len(words) != 1:
        return None, tensors
    (word,) = words
    stripped: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        new = name if part.fullmatch(name) else name.removesuffix(f".{word}")
        new = _extra_words(name, part).get(word, new)
        if new in stripped:
            return None, tensors
        stripped[new] = tensor
    return word, stripped


def _extra_words(name: str, part: re.Pattern[str]) -> dict[str, str]:
    """Return each word without which the name is that of a part, with that name."""
    words, fitting = name.split("."), dict[str, str]()
    if part.fullmatch(name) is not None:
        return {}
    for index in range(4, len(words)):
        rest = ".".join([*words[:index], *words[index + 1 :]])
        for candidate in (rest, rest.removesuffix(".weight")):
            if part.fullmatch(candidate) is not None:
                fitting.setdefault(words[index], candidate)
    return fitting


def _without_inner(settings: Config, names: ModuleNames, tensors: Tensors) -> dict[str, object]:
    """Name modules without what stood before `blocks` in the model that was tuned."""
    changed = dict(settings)
    for option in NAMING:
        value = settings.get(option)
        if isinstance(value, list):
            changed[option] = [name.removeprefix(names.inner) if isinstance(name, str) else name for name in value]
        elif isinstance(value, dict):
            changed[option] = {str(name).removeprefix(names.inner): number for name, number in value.items()}
    if isinstance(settings.get("target_modules"), str):
        paths = [f"{block}.{kind}" for block in _blocks(tensors) for kind in (*LINEAR, *NORMS, *MERGE_MAPS)]
        changed["target_modules"] = [path for path in (*paths, "norm") if matches(settings, names.original(path))]
        changed["exclude_modules"] = None
    return changed


def _blocks(tensors: Tensors) -> list[str]:
    """Return the paths of the blocks up to the last that the tensors name, and of the merges before stages."""
    staged = [match for name in tensors if (match := STAGE.search(name))]
    if not staged:
        numbers = [int(match["number"]) for name in tensors if (match := LAYER.search(name))]
        return [f"blocks.{number}" for number in range(max(numbers, default=0) + 1)]
    last: dict[int, int] = {}
    for match in staged:
        stage = int(match["stage"])
        last[stage] = max(last.get(stage, 0), int(match["number"] or 0))
    inner = [f"layers.{stage}.blocks.{number}" for stage, count in last.items() for number in range(count + 1)]
    return [*inner, *(f"layers.{stage}.{MERGE}" for stage in last)]
