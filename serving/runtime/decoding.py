"""Whatever a caller in this process gives as an image, as RGB pixels of Pillow."""

from __future__ import annotations

from PIL import Image

from serving.images import ImageSource, encoded
from store.images.decoding import decode, to_rgb


def decode_source(image: ImageSource) -> Image.Image:
    """Return the image as RGB, upright; raise `ImageError` where it cannot be read or decoded."""
    return to_rgb(image) if isinstance(image, Image.Image) else decode(encoded(image))
