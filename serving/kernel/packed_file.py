"""The packed backbone as a file that the engines of a machine map and share, in memory once however many there are."""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import stat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer

from serving.kernel.backbone import PackedBackbone, layout, pack_backbone
from serving.kernel.buffers import in_huge_pages
from serving.kernel.library import load_library
from serving.kernel.support import Coverage
from store.backends.atomic_write import replace_file
from store.errors import OnetrunkError
from store.weights.backbones import Backbone

FORMAT = 1  # of the file and of what `native/pack.h` packs; all instruction sets read the same layout
DIGEST_NBYTES = 64  # the SHA-256 of what follows, in hexadecimal, so that what follows begins at a line of the cache
SETTING = "ONETRUNK_CACHE"  # the folder of packed backbones; "off": each process keeps its own in memory
SHARED_NBYTES = 32 << 20  # a smaller backbone is copied: it is read over and over, and its pages cost more than memory
OTHERS = stat.S_IWGRP | stat.S_IWOTH

log = logging.getLogger(__name__)


def open_packed(backbone: Backbone, vit: VisionTransformer, library: Path, covered: Coverage) -> PackedBackbone:
    """Map the packed backbone; the first process packs it and writes the file. Without a folder it is in memory.

    Nothing of the file is used before its digest is right, and a folder that others may write to is not used at all.
    """
    places, nbytes = layout(vit, covered)
    folder = cache_folder()
    if folder is None:
        return _pack(backbone, library, covered)
    path = folder / f"{_key(backbone, covered)}.packed"
    if (memory := _mapped(path, nbytes)) is not None:
        return PackedBackbone(_placed(memory), places)
    packed = _pack(backbone, library, covered)
    try:
        replace_file(path, hashlib.sha256(packed.memory.data).hexdigest().encode() + packed.memory.tobytes())
    except OnetrunkError as error:  # a full disk must not keep an engine from starting
        log.warning("this process keeps a packed backbone of its own: %s", error)
        return packed
    memory = _mapped(path, nbytes)
    return packed if memory is None else PackedBackbone(_placed(memory), places)


def _placed(mapped: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mapping, or a copy in huge pages, which a file's mapping does not get, of what is small."""
    if mapped.nbytes >= SHARED_NBYTES:
        return mapped
    memory = in_huge_pages(mapped.nbytes)
    memory[:] = mapped
    return memory


def cache_folder() -> Path | None:
    """Return the folder, made for this user alone; None where it is off, cannot be made, or others may write to it."""
    setting = os.environ.get(SETTING)
    if setting == "off":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(setting) if setting else Path(base, "onetrunk")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        log.warning("packed backbones are not shared: %s cannot be used (%s)", folder, error.strerror)
        return None
    if status.st_uid != os.geteuid() or status.st_mode & OTHERS:
        log.warning("packed backbones are not shared: %s must belong to this user, and to nobody else", folder)
        return None
    return folder


def _pack(backbone: Backbone, library: Path, covered: Coverage) -> PackedBackbone:
    return pack_backbone(load_library(library), backbone.build(dtype=torch.bfloat16), covered)


def _key(backbone: Backbone, covered: Coverage) -> str:
    parts = (FORMAT, backbone.record.id.fingerprint, covered.stem, covered.pooling)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _mapped(path: Path, nbytes: int) -> NDArray[np.uint8] | None:
    """Return the file's packed bytes; None where there is no such file, or it is not what was written."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size != DIGEST_NBYTES + nbytes or status.st_uid != os.geteuid() or status.st_mode & OTHERS:
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        return None
    whole = np.frombuffer(mapped, np.uint8)
    if hashlib.sha256(whole[DIGEST_NBYTES:].data).hexdigest().encode() != whole[:DIGEST_NBYTES].tobytes():
        log.warning("%s is damaged and is made again", path)
        return None
    return whole[DIGEST_NBYTES:]
