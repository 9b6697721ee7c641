"""Unusual images are read as they look; what is no image is said."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from senet.errors import DataError
from senet.training.data import Split
from senet.training.data.image_files import image_suffixes, opened_image


def saved(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def pixel(file: io.BytesIO) -> tuple[int, ...]:
    image = opened_image(file)
    assert image.mode == "RGB"
    value = image.getpixel((1, 1))
    assert isinstance(value, tuple)
    return value


def test_grey_becomes_rgb() -> None:
    assert pixel(saved(Image.new("L", (4, 4), 77), "png")) == (77, 77, 77)


def test_sixteen_bits_become_eight_and_are_not_cut_off() -> None:
    """0 is black, 65535 white, 257 * 100 is 100: Pillow alone would give 255 for all but black."""
    for level, expected in ((0, 0), (257 * 100, 100), (65535, 255)):
        grey = Image.fromarray(np.full((4, 4), level, np.uint16))
        assert pixel(saved(grey, "png")) == (expected,) * 3
        assert pixel(saved(grey, "tiff")) == (expected,) * 3


def test_cmyk_palette_transparency_and_animation() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert pixel(saved(red.convert("CMYK"), "tiff")) == (255, 0, 0)
    assert pixel(saved(red.convert("P"), "png")) == (255, 0, 0)
    assert pixel(saved(Image.new("RGBA", (4, 4), (255, 0, 0, 9)), "png")) == (255, 0, 0)
    blue = Image.new("RGB", (4, 4), (0, 0, 255))
    animated = saved(red, "gif", save_all=True, append_images=[blue])
    assert pixel(animated) == (255, 0, 0)


def test_floating_point_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="values must be whole numbers, got floating point ones"):
        opened_image(Image.new("F", (4, 4)))


# ---- orientation


def rotated(kind: str, orientation: int = 6) -> io.BytesIO:
    """What a phone held upright writes: lying pixels, whose top is blue, and how to turn them."""
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 20, 20))  # the left half, which is the top when upright
    exif = image.getexif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(kind: str) -> None:
    image = opened_image(rotated(kind))

    assert image.size == (20, 40)
    top, bottom = image.getpixel((10, 5)), image.getpixel((10, 35))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert (top[2] > 200, bottom[0] > 200) == (True, True)


def test_orientation_of_images_that_a_library_opened() -> None:
    """torchvision and timm convert to RGB, which keeps the metadata."""
    lying = Image.open(rotated("JPEG"))

    assert opened_image(lying.convert("RGB")).size == (20, 40)
    assert opened_image(lying.convert("L")).size == (20, 40)
    assert lying.size == (40, 20)  # as it was
    assert opened_image(opened_image(lying)).size == (20, 40)  # once


def test_damaged_metadata_are_no_damaged_image() -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "JPEG", exif=b"Exif\0\0no tiff at all")
    file.seek(0)

    assert opened_image(file).size == (40, 20)


# ---- text in PNG files, whose limit in Pillow is 1 MB


def with_text(size: int) -> bytes:
    plain = saved(Image.new("RGB", (8, 8), (1, 2, 3)), "png").getvalue()
    body = b"zTXt" + b"note\0\0" + zlib.compress(bytes(size))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return plain[:33] + chunk + plain[33:]


def test_png_with_a_large_text_is_read_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    content = with_text(3_000_000)
    (tmp_path / "a.png").write_bytes(content)
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY

    assert pixel(io.BytesIO(content)) == (1, 2, 3)
    assert opened_image(tmp_path / "a.png").getpixel((0, 0)) == (1, 2, 3)
    assert before == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        Image.open(io.BytesIO(content))


@pytest.mark.parametrize("text", [0, 3_000_000])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_file_that_is_cut_off_stays_bad(kind: str, text: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    content = saved(Image.fromarray(noise), kind).getvalue()
    if kind == "png" and text:
        plain = with_text(text)
        content = content[:33] + plain[33 : plain.index(b"IDAT") - 4] + content[33:]

    assert opened_image(io.BytesIO(content)).size == (64, 64)
    with pytest.raises(OSError, match=r"truncated|cannot identify|broken"):
        opened_image(io.BytesIO(content[: len(content) // 2]))


def test_an_image_that_a_split_opens_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(rotated("JPEG").getvalue())
    split = Split("train", (), [0], [tmp_path / "a.jpg"].__getitem__)

    assert split.image(0).size == (20, 40)


def test_endings_are_those_that_pillow_decodes() -> None:
    suffixes = image_suffixes()

    assert {".jpg", ".jfif", ".jpe", ".png", ".pgm", ".tif", ".webp", ".avif", ".gif"} <= suffixes
    assert not {".h5", ".mpg", ".pdf", ".txt", ".npy", ""} & suffixes
