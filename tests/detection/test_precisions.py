"""COCO's numbers are pycocotools' on the same detections; intervals resample images."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from senet.detection.annotations import BoxSplit, ImageBoxes, Object
from senet.detection.precisions import (
    COCO_NUMBERS,
    average_precision,
    coco_results,
    paired_interval,
)
from senet.errors import ConfigError, DataError

IDS = (7, 3, 11)  # not in their order


def made(seed: int, images: int = 12, *, crowds: bool = True) -> BoxSplit:
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(images):
        objects = []
        for _ in range(generator.integers(0, 7)):
            x, y = generator.uniform(0, 300, 2)
            w, h = generator.uniform(4, 150, 2)
            crowd = bool(crowds and generator.random() < 0.1)
            label = int(generator.integers(1, 4))
            objects.append(Object(label, (x, y, x + w, y + h), w * h, crowd))
        rows.append(ImageBoxes(100 - number, Path(f"{number}.jpg"), (500, 500), tuple(objects)))
    return BoxSplit("test", ("b", "a", "c"), IDS, tuple(rows))


def guessed(split: BoxSplit, seed: int, noise: float = 6.0) -> list[dict[str, torch.Tensor]]:
    generator = np.random.default_rng(seed)
    guesses = []
    for image in split.images:
        boxes, labels, scores = [], [], []
        for each in image.objects:
            if generator.random() < 0.85:
                boxes.append(np.array(each.box) + generator.normal(0, noise, 4))
                labels.append(each.label if generator.random() < 0.9 else 1)
                scores.append(generator.random())
        for _ in range(generator.integers(0, 4)):
            corner = generator.uniform(0, 200, 2)
            boxes.append(np.concatenate([corner, corner + generator.uniform(5, 90, 2)]))
            labels.append(int(generator.integers(1, 4)))
            scores.append(round(generator.random(), 1))  # some are equal
        guesses.append({
            "boxes": torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor(scores, dtype=torch.float32),
        })  # fmt: skip
    return guesses


def by_pycocotools(split: BoxSplit, detections: list[dict[str, torch.Tensor]], folder: Path) -> Any:
    """Through the files, as a user would."""
    truth: dict[str, Any] = {
        "info": {},
        "images": [{"id": each.id} for each in split.images],
        "categories": [{"id": i, "name": n} for i, n in zip(IDS, split.classes, strict=True)],
        "annotations": [],
    }
    for image in split.images:
        for each in image.objects:
            x1, y1, x2, y2 = each.box
            truth["annotations"].append({
                "id": len(truth["annotations"]) + 1, "image_id": image.id,
                "category_id": IDS[each.label - 1], "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": each.area, "iscrowd": int(each.crowd),
            })  # fmt: skip
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(coco_results(split, detections)))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluated = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return evaluated


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pycocotools(seed: int, tmp_path: Path) -> None:
    split = made(seed)
    detections = guessed(split, seed + 100)
    expected = by_pycocotools(split, detections, tmp_path)

    precisions = average_precision(split, detections)

    assert list(precisions.numbers) == list(COCO_NUMBERS)
    for value, true in zip(precisions.numbers.values(), expected.stats, strict=True):
        assert math.isnan(value) if true == -1 else abs(value - true) < 1e-12
    for name, number in zip(split.classes, IDS, strict=True):
        precision = expected.eval["precision"][:, :, sorted(IDS).index(number), 0, 2]
        assert abs(precisions.per_class[name]["AP"] - precision.mean()) < 1e-12
        assert abs(precisions.per_class[name]["AP50"] - precision[0].mean()) < 1e-12


def test_a_class_without_an_object_is_none_in_json() -> None:
    split = made(0)
    images = tuple(
        replace(image, objects=tuple(each for each in image.objects if each.label != 1))
        for image in split.images
    )
    precisions = average_precision(replace(split, images=images), guessed(split, 1))

    told = json.loads(json.dumps(precisions.to_dict(), allow_nan=False))
    assert told["per_class"][split.classes[0]] == {"AP": None, "AP50": None}
    assert told["AP"] == precisions.numbers["AP"]
    assert told["VOC_AP50"] == precisions.voc


@pytest.mark.parametrize("seed", range(3))
def test_images_that_are_there_several_times(seed: int, tmp_path: Path) -> None:
    """AP with counts is pycocotools' on a split that has the images so many times."""
    split = made(seed)
    detections = guessed(split, seed)
    for each in detections:  # no equal scores: copies of an image would be sorted otherwise
        each["scores"] = each["scores"] + torch.rand(len(each["scores"])) * 1e-3
    counts = np.random.default_rng(seed).integers(0, 3, len(split))
    places = [place for place, count in enumerate(counts) for _ in range(count)]
    images = tuple(
        ImageBoxes(k, split.images[p].file, None, split.images[p].objects)
        for k, p in enumerate(places, 1)
    )
    repeated = BoxSplit("test", split.classes, IDS, images)
    expected = by_pycocotools(repeated, [detections[p] for p in places], tmp_path)

    precisions = average_precision(split, detections)

    assert abs(precisions.resampled(counts) - expected.stats[0]) < 1e-12
    assert abs(precisions.resampled(np.ones_like(counts)) - precisions.numbers["AP"]) < 1e-12


def test_voc_by_hand() -> None:
    """Two objects; the first two detections right and wrong, the third right: 1/2 + 1/2 2/3."""
    boxes = [(0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 80.0, 80.0)]
    objects = tuple(Object(1, box, 100.0) for box in boxes)
    split = BoxSplit("test", ("a",), (1,), (ImageBoxes(1, Path("a.jpg"), None, objects),))
    far = (200.0, 0.0, 230.0, 30.0)
    detected = {
        "boxes": torch.tensor([boxes[0], far, boxes[1]]),
        "labels": torch.ones(3, dtype=torch.int64),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
    }
    assert abs(average_precision(split, [detected]).voc - (0.5 + 0.5 * 2 / 3)) < 1e-12


def test_what_is_difficult_counts_for_nothing() -> None:
    easy, hard = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 80.0, 80.0)
    objects = (Object(1, easy, 100.0), Object(1, hard, 900.0, difficult=True))
    split = BoxSplit("test", ("a",), (1,), (ImageBoxes(1, Path("a.jpg"), None, objects),))
    labels, scores = torch.ones(2, dtype=torch.int64), torch.tensor([0.5, 0.9])
    for boxes in ([easy, hard], [easy, (0.0, 0.0, 10.0, 10.0)]):
        detected = {"boxes": torch.tensor(boxes), "labels": labels, "scores": scores}
        assert average_precision(split, [detected]).numbers["AR_100"] == 1.0
    detected = {"boxes": torch.tensor([easy, hard]), "labels": labels, "scores": scores}
    assert abs(average_precision(split, [detected]).numbers["AP"] - 1) < 1e-12


def test_nothing_was_found() -> None:
    split = made(0)
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
    }
    precisions = average_precision(split, [nothing] * len(split))
    assert precisions.numbers["AP"] == 0.0
    assert precisions.voc == 0.0
    assert coco_results(split, [nothing] * len(split)) == []


def test_detections_that_cannot_be() -> None:
    split = made(0)
    detections = guessed(split, 0)
    with pytest.raises(DataError, match="detections for 12 images, got 3"):
        coco_results(split, detections[:3])
    detections[0]["boxes"] = detections[0]["boxes"] * torch.nan
    detections[1]["labels"] = detections[1]["labels"] + 9
    with pytest.raises(DataError, match=r"labels of detections must be from 1 to 3|must be finite"):
        coco_results(split, detections)


def test_paired_interval() -> None:
    """Better boxes on every image: the interval is above 0, and has the mean in it."""
    split = made(0, 30)
    good = [average_precision(split, guessed(split, seed, 2.0)) for seed in range(3)]
    poor = [average_precision(split, guessed(split, seed, 15.0)) for seed in range(3)]

    interval = paired_interval(poor, good, draws=60)

    means = [g.numbers["AP"] - p.numbers["AP"] for g, p in zip(good, poor, strict=True)]
    assert abs(interval.mean - np.mean(means)) < 1e-12
    assert 0 < interval.low < interval.mean < interval.high
    assert paired_interval(good, good, draws=20) == (0.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match="with the same seeds, got 3 and 2 runs"):
        paired_interval(poor, good[:2])
