"""A small set of images of rectangles, as COCO's annotations and as Pascal VOC's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("red", "green")
Box = tuple[str, tuple[float, float, float, float]]


def drawn(boxes: Sequence[Box], size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Return grey noise of (width, height) with each box in its colour."""
    noise = np.random.default_rng(seed).integers(90, 140, (size[1], size[0], 3), dtype=np.uint8)
    for name, (x1, y1, x2, y2) in boxes:
        colour = (230, 30, 30) if name == "red" else (30, 220, 40)
        noise[int(y1) : int(y2), int(x1) : int(x2)] = colour
    return Image.fromarray(noise)


def scene(seed: int, size: tuple[int, int]) -> list[Box]:
    generator = np.random.default_rng(seed)
    boxes: list[Box] = []
    for place in range(generator.integers(0 if seed % 5 == 4 else 1, 3)):
        w, h = generator.integers(12, 28, 2)
        x = int(generator.integers(0, size[0] // 2 - w)) + place * size[0] // 2
        y = int(generator.integers(0, size[1] - h))
        boxes.append((CLASSES[int(generator.integers(2))], (x, y, x + int(w), y + int(h))))
    return boxes


def write_voc(root: Path, scenes: dict[str, list[list[Box]]], size: tuple[int, int]) -> Path:
    """Write splits -> boxes of each image."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for split, images in scenes.items():
        names = [f"{split}_{k}" for k in range(len(images))]
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(names) + "\n")
        for k, (name, boxes) in enumerate(zip(names, images, strict=True)):
            drawn([b for b in boxes if all(np.isfinite(b[1]))], size, k).save(
                root / f"JPEGImages/{name}.png"
            )
            write_xml(root / f"Annotations/{name}.xml", f"{name}.png", boxes, size)
    return root


def write_xml(file: Path, image: str, boxes: Sequence[Box], size: tuple[int, int] | None) -> None:
    sides = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox>"
        + "".join(f"<{side}>{v}</{side}>" for side, v in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for name, box in boxes
    )
    told = ""
    if size is not None:
        told = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    file.write_text(f"<annotation><filename>{image}</filename>{told}{objects}</annotation>")


def write_coco(
    root: Path, scenes: dict[str, list[list[Box]]], size: tuple[int, int], **more: Any
) -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, images in scenes.items():
        (root / split).mkdir(exist_ok=True)
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 5, "name": "red"}, {"id": 9, "name": "green"}],
        }
        for k, boxes in enumerate(images):
            number = 40 + k
            drawn(boxes, size, k).save(root / split / f"{k}.png")
            content["images"].append(
                {"id": number, "file_name": f"{k}.png", "width": size[0], "height": size[1]}
            )
            for name, (x1, y1, x2, y2) in boxes:
                content["annotations"].append({
                    "id": len(content["annotations"]) + 1, "image_id": number,
                    "category_id": {"red": 5, "green": 9}.get(name, 77),
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0, **more,
                })  # fmt: skip
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
