"""The image processor of transformers as a backbone's preprocessing, refused where no such preprocessing exists."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import cast

from store.errors import UnservedBackboneError
from store.records.backbone import Preprocessing

RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
CROPPING = ("Bit", "DeiT", "CLIP")
"""The processors that crop unless they say otherwise."""
REMEDY = "save the model with the image processor of a ViT, DeiT or DINOv2"

Settings = Mapping[str, object]


def preprocessing_of(settings: Settings, where: str) -> Preprocessing:
    """Return how the processor makes an image the model's input; raise `UnservedBackboneError` if timm cannot."""
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "ViTImageProcessor")
    crops = settings.get("do_center_crop", kind.startswith(CROPPING))
    for option in ("do_resize", "do_rescale", "do_normalize"):
        if settings.get(option, True) is not True:
            raise _unserved(where, option, settings[option], "images of any size and range cannot be served")
    if abs(_number(settings, "rescale_factor", where, 1 / 255) * 255 - 1) > 1e-6:
        raise _unserved(where, "rescale_factor", settings["rescale_factor"], "pixels are divided by 255")
    if settings.get("do_pad") or settings.get("offset"):
        raise _unserved(where, "do_pad", settings.get("do_pad"), "images are not padded")
    resample = settings.get("resample", 2)
    if resample not in RESAMPLING:
        raise _unserved(where, "resample", resample, f"known are {', '.join(map(str, RESAMPLING))}")
    size = _sizes(settings, "size", where, square="shortest_edge" if kind.startswith("Bit") else "")
    edge = size.get("shortest_edge")
    if edge is not None and not crops:
        raise _unserved(where, "size", settings["size"], "without a crop its images are of any size")
    resized = (edge, edge) if edge is not None else (size["height"], size["width"])
    crop = _sizes(settings, "crop_size", where) if crops else size
    height, width = crop["height"], crop["width"]
    return Preprocessing(
        height,
        width,
        RESAMPLING[resample],
        _channels(settings, "image_mean", where),
        _channels(settings, "image_std", where),
        _crop_pct((height, width), resized, where),
        "squash" if edge is None else "center",
    )


def parse_processor(data: bytes, where: str) -> Settings:
    try:
        settings = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnservedBackboneError(f"{where} is not JSON ({error}): {REMEDY}") from None
    if not isinstance(settings, dict):
        raise UnservedBackboneError(f"{where} is not an object: {REMEDY}")
    nested = settings.get("image_processor")
    return cast(Settings, nested if isinstance(nested, dict) else settings)


def _crop_pct(crop: tuple[int, int], resized: tuple[int, int], where: str) -> float:
    """Return the share of the resized image that is kept: the one number from which timm gets both sizes again."""
    for pct in (crop[0] / resized[0], crop[0] / (resized[0] + 0.5), crop[1] / (resized[1] + 0.5)):
        if 0 < pct <= 1 and all(math.floor(side / pct) == whole for side, whole in zip(crop, resized, strict=True)):
            return pct
    raise _unserved(where, "crop_size", list(crop), f"it does not keep one share of both sides of {list(resized)}")


def _sizes(settings: Settings, option: str, where: str, *, square: str = "") -> dict[str, int]:
    value = settings.get(option)
    if type(value) is int:
        value = {square: value} if square else {"height": value, "width": value}
    keys = set(value) if isinstance(value, dict) else set()
    known = isinstance(value, dict) and keys in ({"height", "width"}, {"shortest_edge"})
    if not known or not all(
        type(side) is int and 0 < side <= 1 << 14 for side in cast("dict[str, int]", value).values()
    ):
        raise _unserved(where, option, value, "expected height and width, or shortest_edge")
    return cast("dict[str, int]", value)


def _number(settings: Settings, option: str, where: str, default: float) -> float:
    value = settings.get(option, default)
    if type(value) not in (int, float):
        raise _unserved(where, option, value, "expected a number")
    return cast(float, value)


def _channels(settings: Settings, option: str, where: str) -> tuple[float, float, float]:
    value = settings.get(option)
    if not isinstance(value, list) or len(value) != 3 or not all(type(v) in (int, float) for v in value):
        raise _unserved(where, option, value, "expected three numbers, for red, green and blue")
    return cast(tuple[float, float, float], tuple(map(float, value)))


def _unserved(where: str, option: str, value: object, reason: str) -> UnservedBackboneError:
    return UnservedBackboneError(f"{where} has {option} = {str(value)[:80]}: {reason}; {REMEDY}")
