"""The tensors that a task takes as its input: encoded images, pixels, or what the backbone sees."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.oip.inference import GivenTensor
from store.errors import FormatError
from store.records.backbone import Preprocessing

IMAGE, PIXELS, NORMALISED = "image", "pixels", "normalised"
DATATYPES = {IMAGE: "BYTES", PIXELS: "UINT8", NORMALISED: "FP32"}
MOST = 1000.0
"""Of a normalised value; those of images are below 5, and far larger ones make logits that are not numbers."""

BMP = struct.Struct("<2sIHHIIiiHHIIiiII")
Images = Sequence[bytes | Tensor]


def find_input(inputs: Sequence[GivenTensor]) -> GivenTensor:
    """Return the one input; raise `FormatError` where there is another number of them, or it is not one of a task's."""
    known = ", ".join(f"{name} ({datatype})" for name, datatype in DATATYPES.items())
    if len(inputs) != 1:
        raise FormatError(f"the request has {len(inputs)} inputs: give one of {known}")
    (given,) = inputs
    if DATATYPES.get(given.name) != given.datatype:
        raise FormatError(f"input {given.name[:80]!r} of {given.datatype[:20]} is not an input of a task: give {known}")
    if any(size < 1 for size in given.shape):
        raise FormatError(f"input {given.name!r} has the shape {list(given.shape)}: its sizes are from 1")
    return given


def count_images(given: GivenTensor) -> int:
    """Return how many images its shape says that it holds; raise `FormatError` where the shape is not an input's."""
    rank = len(given.shape)
    if given.name == IMAGE:
        is_valid, rule = rank > 0, "[N]"
    else:
        is_valid, rule = rank == 4, "[N, height, width, 3]" if given.name == PIXELS else "[N, 3, height, width]"
        is_valid = is_valid and given.shape[3 if given.name == PIXELS else 1] == 3
    if not is_valid:
        raise FormatError(f"input {given.name!r} has the shape {list(given.shape)}: give {rule}")
    return math.prod(given.shape) if given.name == IMAGE else given.shape[0]


def images_of(given: GivenTensor, preprocessing: Preprocessing) -> Images:
    """Return the images of an input that `count_images` has counted."""
    if isinstance(given.content, tuple):
        if len(given.content) != math.prod(given.shape):
            raise FormatError(
                f"input {given.name!r} of shape {list(given.shape)} has {len(given.content)} elements: send all"
            )
        return given.content
    nbytes = math.prod(given.shape) * (1 if given.name == PIXELS else 4)
    if len(given.content) != nbytes:
        raise FormatError(
            f"input {given.name!r} of shape {list(given.shape)} has {len(given.content):,} bytes: send {nbytes:,}"
        )
    if given.name == PIXELS:
        return [as_bmp(pixels) for pixels in np.frombuffer(given.content, np.uint8).reshape(given.shape)]
    return _normalised(np.frombuffer(given.content, "<f4").reshape(given.shape), preprocessing)


def as_bmp(pixels: NDArray[np.uint8]) -> bytes:
    """Return (height, width, 3) RGB as a file, so that pixels are bounded, decoded and resized as images are."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, -(-3 * width // 4) * 4), np.uint8)
    rows[:, : 3 * width] = pixels[:, :, ::-1].reshape(height, 3 * width)
    head = (b"BM", BMP.size + rows.nbytes, 0, 0, BMP.size, 40, width, -height, 1, 24, 0, rows.nbytes, 0, 0, 0, 0)
    return BMP.pack(*head) + rows.tobytes()


def _normalised(values: NDArray[np.float32], preprocessing: Preprocessing) -> Sequence[Tensor]:
    size = (3, preprocessing.height, preprocessing.width)
    if values.shape[1:] != size:
        raise FormatError(f"input {NORMALISED!r} has the shape {list(values.shape)}: give {['N', *size]}")
    if not np.abs(values).max() <= MOST:  # not a number compares as no
        raise FormatError(
            f"input {NORMALISED!r} holds a value beyond {MOST:g}, or one that is not a number: normalise it"
        )
    return [torch.from_numpy(image.astype(np.float32)) for image in values]
