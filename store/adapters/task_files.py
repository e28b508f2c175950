"""The files of a task's folder: their names, their limits, and how each is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from store.adapters.regular_file import read_regular
from store.adapters.safetensors_header import (
    MAX_HEADER_NBYTES,
    TensorInfo,
    check_header,
    header_nbytes,
    parse_header,
)
from store.errors import FormatError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HEAD = "head.safetensors"
LABELS = "classes.txt"
CARD = "onetrunk.json"
MODEL, MODEL_CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
"""The files of a whole model, as timm and transformers save it."""
LIMITS = {
    CONFIG: 1 << 20,
    WEIGHTS: 1 << 32,
    HEAD: 1 << 32,
    LABELS: 1 << 22,
    CARD: 1 << 20,
    MODEL: 1 << 34,
    MODEL_CONFIG: 1 << 22,
    PROCESSOR: 1 << 20,
}
"""Bytes by name."""
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy"})


def read_file(path: Path) -> bytes:
    """Read a file of a task's folder; raise `FormatError` where it is missing, not regular or too large."""
    try:
        return read_regular(
            path, limit=LIMITS[path.name], check=check_header if path.name in (WEIGHTS, HEAD, MODEL) else None
        )
    except FileNotFoundError:
        raise FormatError(
            f"{path.parent} has no {path.name}: a task's folder holds {CONFIG}, {WEIGHTS}, {HEAD} and {LABELS}"
        ) from None


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file, of which nothing but the header is read."""
    nbytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        prefix += file.read(min(header_nbytes(prefix, path.name) - 8, MAX_HEADER_NBYTES))
    return parse_header(prefix, nbytes, path.name)


def refuse_pickle(folder: Path, name: str) -> None:
    """Raise `FormatError` where the file is missing and a pickle may stand in its place."""
    pickles = [] if (folder / name).exists() else [path for path in folder.iterdir() if path.suffix in PICKLES]
    if pickles:
        raise FormatError(
            f"{folder} has no {name}, and {min(pickles).name} is a pickle, which can run code and is not read: "
            "load it where you trust it and save it as safetensors, PEFT's with save_pretrained()"
        )


def parse_config(data: bytes) -> Mapping[str, object]:
    """Return what `adapter_config.json` says."""
    try:
        settings = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{CONFIG} is not JSON ({error}): save the adapter with PEFT again") from None
    if not isinstance(settings, dict):
        raise FormatError(f"{CONFIG} is not an object: save the adapter with PEFT again")
    return settings


def read_label_names(folder: Path) -> list[str] | None:
    """Return the class names in a model's `config.json`: transformers' `id2label` or timm's `label_names`."""
    if not (folder / MODEL_CONFIG).is_file():
        return None
    try:
        config = json.loads(read_file(folder / MODEL_CONFIG))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{folder / MODEL_CONFIG} is not JSON ({error}): save the model again") from None
    return label_names(config) if isinstance(config, dict) else None


def label_names(config: Mapping[str, object]) -> list[str] | None:
    """Return the class names of a model's config in the order of the head's rows, None where it has none."""
    by_number, in_order = config.get("id2label"), config.get("label_names")
    if isinstance(by_number, dict):
        names = [by_number.get(str(number)) for number in range(len(by_number))]
    else:
        names = in_order if isinstance(in_order, list) else []
    return [str(name) for name in names] if names and all(isinstance(name, str) for name in names) else None
