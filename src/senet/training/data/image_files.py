"""Opening an image file of any kind as RGB or grey bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from senet.errors import DataError

__all__ = ["SUFFIXES", "opened_image", "to_bytes_image"]

# Files in folders and tar files that are images by their name.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".gif", ".tif", ".tiff")


def opened_image(source: Any) -> Image.Image:
    """Return the image in a file, path or PIL image, in RGB, or grey where it is held so.

    Args:
        source: a PIL image, which may stay grey; or anything that PIL opens, which becomes RGB.

    Raises:
        DataError: values that are no picture.
    """
    if isinstance(source, Image.Image):
        return source if source.mode in ("L", "RGB") else to_bytes_image(source)
    with Image.open(source) as image:
        return to_bytes_image(image).convert("RGB")


def to_bytes_image(image: Image.Image) -> Image.Image:
    """Return an image with eight bits a value.

    Grey of 16 bits is divided by 257, so that 65535 becomes 255: Pillow would cut it off at 255.
    Of an animation the first picture counts. CMYK, palettes and transparency become RGB (what is
    transparent has the colour that it hides).

    Raises:
        DataError: values that are no picture.
    """
    if image.mode.startswith("I"):  # I;16, I;16B, and what older versions of Pillow call I
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise DataError(
                f"grey values lie in {values.min()}..{values.max()}, more than 16 bits hold"
            )
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError("values are floating point numbers, which are no picture; convert the file")
    return image.convert("RGB")
