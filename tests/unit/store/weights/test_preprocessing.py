from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from store.errors import ImageError
from store.images.fitting import RESAMPLING, fit
from store.records.backbone import Preprocessing
from store.weights.preprocessing import Normalise, make_transform

unit = st.floats(0.05, 0.95)
sides = st.integers(1, 70)
preprocessings = st.builds(
    Preprocessing, sides, sides, st.sampled_from(sorted(RESAMPLING)), st.tuples(unit, unit, unit),
    st.tuples(unit, unit, unit), st.sampled_from([0.3, 0.875, 0.9, 0.95, 1.0]),
    st.sampled_from(["center", "squash", "border"]),
)  # fmt: skip


def fast_transform(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    return Normalise(preprocessing)(fit(image, preprocessing).tobytes())


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def test_the_transform_resizes_crops_and_normalises_as_the_backbone_wants():
    preprocessing = Preprocessing(8, 8, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0, "center")
    pixels = make_transform(preprocessing)(Image.new("RGB", (20, 10), (255, 0, 255)))
    assert tuple(pixels.shape) == (3, 8, 8)
    assert pixels.amin(dim=(1, 2)).tolist() == pytest.approx([2, -2, 2])


@settings(max_examples=400, deadline=None)
@given(preprocessings, st.booleans(), sides, sides)
def test_the_fast_transform_gives_the_bits_of_timms(preprocessing, square, width, height):
    if square:
        values = {**vars(preprocessing), "width": preprocessing.height}
        preprocessing = Preprocessing(**values)
    image = noise(width, height)
    try:
        expected = make_transform(preprocessing)(image)
    except ValueError:  # a side of no pixels
        with pytest.raises((ValueError, ImageError)):
            fast_transform(preprocessing, image)
        return
    assert torch.equal(fast_transform(preprocessing, image), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(500, 375), (64, 64), (31, 1200), (224, 224), (225, 223)])
def test_so_it_does_at_the_sizes_of_photos(interpolation, size):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for side, crop_pct in ((224, 0.9), (64, 1.0)):
        preprocessing = Preprocessing(side, side, interpolation, mean, std, crop_pct, "center")
        assert torch.equal(fast_transform(preprocessing, noise(*size)), make_transform(preprocessing)(noise(*size)))


def test_an_image_that_would_grow_too_large_before_the_crop_is_refused():
    preprocessing = Preprocessing(1024, 1024, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "center")
    with pytest.raises(ImageError, match="50,000,000 pixels are the most"):
        fast_transform(preprocessing, Image.new("RGB", (99, 1)))
