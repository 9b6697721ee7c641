"""The cells of BCCD as an image folder: three classes, one with eight tenths of the images."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

__all__ = ["cut_cells"]

SPLITS = {"train": "trainval", "test": "test"}  # ours: theirs
SIDE = 32


def cut_cells(bccd: Path, folder: Path) -> Path:
    """Cut each annotated cell out and write folder/SPLIT/CLASS/IMAGE_k.png; return the folder.

    The square around the box, with an eighth of its side more on each side where there is image, is
    scaled to 32 x 32. The splits are BCCD's own, by image, so no image gives cells to both.

    Args:
        bccd: the folder with Annotations, ImageSets and JPEGImages.
        folder: what is written; one that is there is whole and left alone.
    """
    if folder.exists():
        return folder
    begun = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(begun, ignore_errors=True)
    for split, theirs in SPLITS.items():
        names = (bccd / "ImageSets" / "Main" / f"{theirs}.txt").read_text().split()
        for name in names:
            _cut(bccd, name, begun / split)
    begun.rename(folder)
    return folder


def _cut(bccd: Path, name: str, folder: Path) -> None:
    image = Image.open(bccd / "JPEGImages" / f"{name}.jpg").convert("RGB")
    cells = ElementTree.parse(bccd / "Annotations" / f"{name}.xml").iter("object")
    for number, cell in enumerate(cells):
        ends = (
            float(cell.findtext(f"bndbox/{end}") or 0) for end in ("xmin", "ymin", "xmax", "ymax")
        )
        left, top, right, bottom = ends
        half = 0.625 * max(right - left, bottom - top)
        if half <= 0:
            continue
        x, y = (left + right) / 2, (top + bottom) / 2
        box = (
            *(max(0, round(x - half)), max(0, round(y - half))),
            *(min(image.width, round(x + half)), min(image.height, round(y + half))),
        )
        place = folder / (cell.findtext("name") or "")
        place.mkdir(parents=True, exist_ok=True)
        image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box).save(
            place / f"{name}_{number}.png"
        )
