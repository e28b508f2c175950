"""Changes of training images that keep their class; each is drawn from the seed, the epoch and the image alone."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

from store.errors import InvalidSettingError

NONE, LIGHT = "none", "light"
LEAST_AREA, CONTRAST = 0.8, 0.2
POLICIES = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
AUTO = ("original", "originalr", "v0", "v0r", "3a")  # timm's AutoAugment policies
SETTING = re.compile(r"[a-z]+\d+(\.\d+)?")
FILL = (124, 116, 104)  # what timm fills with where a policy moves an image

Change = Callable[[Image.Image], Image.Image]


class Augmentation:
    """Change an image by a policy: `light`, or one of timm's in its own words, such as `rand-m9-mstd0.5`."""

    def __init__(self, policy: str, *, seed: int) -> None:
        self._seed, self._change = seed, parse_policy(policy)

    def __call__(self, image: Image.Image, *, epoch: int, row: int) -> Image.Image:
        """Return the changed image; the random states of Python and NumPy are as before."""
        seed = int(np.random.SeedSequence((self._seed, epoch, row)).generate_state(1)[0])
        kept = random.getstate(), np.random.get_state()  # timm draws from the global ones
        try:
            random.seed(seed)
            np.random.seed(seed)
            return self._change(image)
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


def parse_policy(policy: str) -> Change:
    """Return what the policy does; raise `InvalidSettingError` for one that timm cannot read."""
    if policy == NONE:
        return lambda image: image
    if policy == LIGHT:
        return _light
    words = policy.split("-")
    unread = [word for word in words[1:] if not SETTING.fullmatch(word)]
    try:
        if unread:  # which timm would pass over
            raise ValueError(f"{unread[0]!r} is not a letter and a number")
        if words[0] in POLICIES:
            change: Change = POLICIES[words[0]](policy, {"translate_const": 20, "img_mean": FILL})
        elif words[0] in AUTO:
            change = auto_augment_transform(policy, {"translate_const": 20, "img_mean": FILL})
        else:
            raise ValueError("its first word is unknown")
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        problem = str(error) or "timm cannot read it"
        raise InvalidSettingError(
            f"augment {policy!r} is not valid ({problem}): choose {NONE}, {LIGHT}, or a policy of timm such as "
            "rand-m9-mstd0.5, augmix-m3 or v0"
        ) from None
    return change


def _light(image: Image.Image) -> Image.Image:
    """Crop to at least four fifths of the area and change contrast and brightness a little; never mirror."""
    share = random.uniform(LEAST_AREA, 1) ** 0.5
    width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
    left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
    image = image.crop((left, top, left + width, top + height))
    for enhance in (ImageEnhance.Contrast, ImageEnhance.Brightness):
        image = enhance(image).enhance(random.uniform(1 - CONTRAST, 1 + CONTRAST))
    return image
