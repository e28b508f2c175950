"""What frozen blocks made of images, kept in files by content for the time of one run, for all its processes."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class FeatureCache:
    """A folder that this process adds at most so many bytes to; what finds no room is computed where it is needed.

    The folder is for one run: after a power cut a file of it may be whole in length alone.
    """

    def __init__(self, folder: Path, *, limit_nbytes: int) -> None:
        self.folder, self._room = folder, limit_nbytes

    def get(self, key: str) -> bytes | None:
        """Return what is kept under the key, None where nothing is."""
        try:
            return self._path(key).read_bytes()
        except OSError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Keep the bytes if there is room, whole or not at all."""
        if len(data) > self._room:
            return
        path = self._path(key)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:  # a full disk, or a folder that is gone: the run goes on without
            temporary.unlink(missing_ok=True)
            self._room = 0
            return
        self._room -= len(data)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]


@dataclass(frozen=True)
class FrozenOutputs:
    """The part of a cache for the first `frozen` blocks of one backbone: bfloat16 tokens of each image."""

    cache: FeatureCache
    fingerprint: str
    frozen: int

    def get(self, image_digest: str, shape: tuple[int, ...]) -> Tensor | None:
        """Return the tokens in this shape, one of whose sizes may be -1; None where they are not kept."""
        data = self.cache.get(self._key(image_digest))
        numbers = abs(2 * math.prod(shape))
        if not data or (len(data) % numbers if -1 in shape else len(data) != numbers):
            return None
        return torch.from_numpy(np.frombuffer(data, np.int16).copy()).view(torch.bfloat16).view(shape)

    def put(self, image_digest: str, output: Tensor) -> None:
        self.cache.put(self._key(image_digest), output.contiguous().view(torch.int16).numpy().tobytes())

    def _key(self, image_digest: str) -> str:
        return hashlib.sha256(f"{self.fingerprint} {self.frozen} {image_digest}".encode()).hexdigest()
