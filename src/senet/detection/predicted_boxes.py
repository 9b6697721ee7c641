"""Boxes in images: found by a trained detector, as JSON, and drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from senet.detection.detector_runs import TrainedDetector
from senet.errors import ConfigError, DataError
from senet.training.data import opened_image
from senet.training.data.dataset import reason
from senet.training.loop.placement import find_device

__all__ = ["detect", "drawn", "image_files"]

# Of Okabe and Ito, which people who see few colours can tell apart
_COLOURS = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_VIDEOS = (".avi", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


def image_files(given: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Return the image files that are given, also those in folders, and what was passed over.

    Raises:
        ConfigError: a video.
    """
    from senet.training.data.folders import images_below

    paths: list[Path] = []
    notes: list[str] = []
    for path in given:
        if path.suffix.lower() in _VIDEOS:
            raise ConfigError(
                f"images must be given, {path} is a video; write its frames to a folder first: "
                f"ffmpeg -i {path} frames/%06d.png"
            )
        below, note = images_below(path) if path.is_dir() else ([path], "")
        paths += below
        notes += [note] if note else []
    return paths, notes


def detect(
    trained: TrainedDetector,
    images: Iterable[Path],
    *,
    score: float = 0.5,
    device: str = "auto",
) -> Iterator[tuple[Path, Image.Image, list[dict[str, Any]]]]:
    """Yield each image with the boxes that are found, the surest first.

    A box is {"class", "score", "box": [x1, y1, x2, y2]} in pixels of the image.

    Args:
        trained: the detector.
        images: files.
        score: the least score of a box.
        device: where the detector runs.

    Raises:
        DataError: an image that cannot be read.
    """
    if not 0 <= score <= 1 or math.isnan(score):
        raise ConfigError(f"score must be in [0, 1], got {score}")
    target = find_device(device)
    net = trained.net.to(target).eval()
    for path in images:
        try:
            image = opened_image(path).convert("RGB")
        except Exception as error:  # decoders raise anything
            raise DataError(f"{path} cannot be read: {reason(error)}") from error
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            [detected] = net([pixels.to(target)])
        boxes = zip(
            *(detected[name].tolist() for name in ("labels", "scores", "boxes")), strict=True
        )
        listed = [
            {
                "class": trained.classes[label - 1],
                "score": round(value, 4),
                "box": [round(side, 1) for side in box],
            }
            for label, value, box in boxes
            if value >= score
        ]
        yield path, image, listed


def drawn(
    image: Image.Image, boxes: Sequence[dict[str, Any]], classes: Sequence[str]
) -> Image.Image:
    """Return the image with its boxes, each class in a colour of its own, and their scores."""
    canvas = image.convert("RGB")
    pen = ImageDraw.Draw(canvas)
    width = max(1, round(max(canvas.size) / 400))
    for each in reversed(boxes):  # the surest on top
        colour = _COLOURS[list(classes).index(each["class"]) % len(_COLOURS)]
        x1, y1, x2, y2 = each["box"]
        pen.rectangle((x1, y1, x2, y2), outline=colour, width=width)
        text = f"{each['class']} {each['score']:.2f}"
        corner = (x1, max(0, y1 - 12))
        pen.rectangle(pen.textbbox(corner, text), fill=colour)
        pen.text(corner, text, fill="white")
    return canvas
