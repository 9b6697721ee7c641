"""Image files: which files are images, and opening one as RGB or grey bytes."""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from senet.errors import DataError

__all__ = ["image_suffixes", "is_hidden", "opened_image", "suffix_of"]

# Formats that Pillow recognises by their name, and cannot decode without another library.
_NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
# Files and folders that systems put beside images; others begin with a dot.
_SYSTEM_FILES = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_MAX_TEXT_BYTES = 2**30
_TEXT_LIMITS = threading.Lock()


def image_suffixes() -> frozenset[str]:
    """Return the endings, in lower case, of the files that Pillow reads here, with its plugins."""
    Image.init()
    formats = set(Image.OPEN) - _NOT_DECODED
    endings = Image.registered_extensions().items()
    return frozenset(suffix.lower() for suffix, kind in endings if kind in formats)


def suffix_of(path: str) -> str:
    """Return the ending of a path's name in lower case, as ".png"."""
    return posixpath.splitext(path)[1].lower()


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's data.

    Example:
        >>> [is_hidden(name) for name in ("._a.png", ".ipynb_checkpoints", "__MACOSX", "a.png")]
        [True, True, True, False]
    """
    return name.startswith(".") or name in _SYSTEM_FILES


def opened_image(source: Any) -> Image.Image:
    """Return the image in a file, path or PIL image: upright, in RGB, or grey where it is held so.

    Upright means that the orientation in the metadata is applied. Training, evaluation and
    prediction all open images here.

    Args:
        source: a PIL image, which may stay grey; or anything that PIL opens, which becomes RGB.

    Raises:
        DataError: values that are no image.
        OSError: the file is cut off, damaged or of an unknown format.
    """
    if isinstance(source, Image.Image):
        image = _upright(source)
        return image if image.mode in ("L", "RGB") else _to_bytes(image)
    try:
        return _decoded(source)
    except DataError:
        raise
    except ValueError:  # maybe a PNG with more text than Pillow reads by default
        with _long_texts():
            if hasattr(source, "seek"):
                source.seek(0)
            return _decoded(source)


def _decoded(source: Any) -> Image.Image:
    with Image.open(source) as image:
        image.load()
        return _to_bytes(_upright(image)).convert("RGB")


@contextmanager
def _long_texts() -> Iterator[None]:
    """Let PNG files have text chunks of any usual size; the limits are Pillow's globals."""
    with _TEXT_LIMITS:
        limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MAX_TEXT_BYTES
        try:
            yield
        finally:
            PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = limits


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # noqa: BLE001 - damaged metadata are no damaged image
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _to_bytes(image: Image.Image) -> Image.Image:
    """Return an image with eight bits a value.

    Grey of 16 bits is divided by 257, so that 65535 becomes 255: Pillow would cut it off at 255.
    Of an animation the first frame counts. CMYK, palettes and transparency become RGB (what is
    transparent has the colour that it hides).
    """
    if image.mode.startswith("I"):  # I;16, I;16B, and what older versions of Pillow call I
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise DataError(
                f"grey values must lie in 0..65535, got {values.min()}..{values.max()}; "
                "convert the file"
            )
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError("values must be whole numbers, got floating point ones; convert the file")
    return image.convert("RGB")
