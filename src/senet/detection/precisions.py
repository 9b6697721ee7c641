"""Average precision: COCO's twelve numbers by pycocotools, per class, VOC's, intervals.

`pycocotools` matches and accumulates; what is here gives it the annotations, takes out the numbers,
and draws images anew for intervals.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from senet.detection.annotations import BoxSplit
from senet.errors import ConfigError, DataError, optional
from senet.schema import finite

__all__ = [
    "COCO_NUMBERS",
    "PairedInterval",
    "Precisions",
    "average_precision",
    "coco_results",
    "paired_interval",
]

# The twelve, in the order of COCO's summary
COCO_NUMBERS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)
_ALL, _MOST = 0, 2  # the range of areas "all", and 100 boxes per image, in COCO's lists


def coco_results(split: BoxSplit, detections: Sequence[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Return detections as COCO's results: image_id, category_id, bbox [x, y, w, h], score.

    Args:
        split: the images.
        detections: for each image "boxes" [n, 4], "labels" [n] and "scores" [n].

    Raises:
        DataError: a number that is not finite, or a label of no class.
    """
    if len(detections) != len(split):
        raise DataError(f"there must be detections for {len(split)} images, got {len(detections)}")
    results = []
    for image, detected in zip(split.images, detections, strict=True):
        boxes, scores = detected["boxes"].double().cpu(), detected["scores"].double().cpu()
        labels = detected["labels"].tolist()
        if not bool(boxes.isfinite().all() and scores.isfinite().all()):
            raise DataError(f"detections in {image.file.name} must be finite; test the weights")
        if any(not 1 <= label <= len(split.classes) for label in labels):
            raise DataError(
                f"labels of detections must be from 1 to {len(split.classes)}, got {labels[:5]} in "
                f"{image.file.name}"
            )
        corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
        results += [
            {
                "image_id": image.id,
                "category_id": split.category_ids[label - 1],
                "bbox": corner,
                "score": score,
            }
            for corner, label, score in zip(corners, labels, scores.tolist(), strict=True)
        ]
    return results


class _Class(NamedTuple):
    """The detections of one class in all images, the best first, at each overlap."""

    image: Any
    """[D] the place of each detection's image."""
    right: Any
    """[T, D] whether it is a new object."""
    wrong: Any
    """[T, D] whether it is none; one in a crowd is neither."""
    objects: Any
    """[I] how many objects each image has."""


@final
class Precisions:
    """What detections in a split are worth.

    Attributes:
        numbers: COCO's twelve by name (see COCO_NUMBERS); nan where there is nothing to find.
        per_class: AP and AP50 of each class.
        voc: VOC's AP at an overlap of 0.5, the mean over the classes: the whole area under the
            curve of precision over recall, from COCO's matches.
        images: how many there are.
    """

    def __init__(self, split: BoxSplit, evaluated: Any) -> None:
        stats = [float(value) for value in evaluated.stats]
        self.numbers = {n: _there(v) for n, v in zip(COCO_NUMBERS, stats, strict=True)}
        self.images = len(split)
        precision = evaluated.eval["precision"]  # [overlap, recall, class, area, boxes]
        order = sorted(split.category_ids)
        places = {n: order.index(i) for n, i in zip(split.classes, split.category_ids, strict=True)}
        self.per_class = {
            name: {
                "AP": _mean(precision[:, :, k, _ALL, _MOST]),
                "AP50": _mean(precision[0, :, k, _ALL, _MOST]),
            }
            for name, k in places.items()
        }
        self._recalls = evaluated.params.recThrs
        self._classes = [_class(evaluated, split, k) for k in places.values()]
        areas = [_whole_area(each) for each in self._classes]
        self.voc = _average(areas)

    def to_dict(self) -> dict[str, Any]:
        """Return COCO's twelve, VOC_AP50 and per_class; None where there is nothing to find."""
        return {
            **{name: finite(value) for name, value in self.numbers.items()},
            "VOC_AP50": finite(self.voc),
            "per_class": {
                name: {which: finite(value) for which, value in each.items()}
                for name, each in self.per_class.items()
            },
        }

    def resampled(self, counts: Any) -> float:
        """Return AP as if each image were there so many times.

        Args:
            counts: [I] whole numbers, in the order of the split.
        """
        return _average([_interpolated(each, self._recalls, counts) for each in self._classes])


def average_precision(split: BoxSplit, detections: Sequence[dict[str, Tensor]]) -> Precisions:
    """Return COCO's average precision of detections, computed by pycocotools.

    Args:
        split: the images with their boxes.
        detections: for each image "boxes" [n, 4], "labels" [n] and "scores" [n].

    Raises:
        DataError: detections that cannot be.
        MissingPackageError: pycocotools is not installed.
    """
    with optional("average precision"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):  # type: ignore[misc]
        """What VOC marks as difficult counts neither as found nor as missed."""

        def _prepare(self) -> None:
            super()._prepare()
            for objects in self._gts.values():
                for each in objects:
                    each["ignore"] = each["ignore"] or each["difficult"]

    results = coco_results(split, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        truth, detected = COCO(), COCO()
        truth.dataset = _as_coco(split)
        truth.createIndex()
        if results:
            detected = truth.loadRes(results)
        else:
            detected.dataset = {**truth.dataset, "annotations": []}
            detected.createIndex()
        evaluated = Evaluation(truth, detected, "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return Precisions(split, evaluated)


def _as_coco(split: BoxSplit) -> dict[str, Any]:
    """Return the annotations of a split as COCO has them."""
    pairs = [(image.id, each) for image in split.images for each in image.objects]
    return {
        "info": {},
        "images": [{"id": image.id} for image in split.images],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(split.category_ids, split.classes, strict=True)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": split.category_ids[each.label - 1],
                "bbox": [*each.box[:2], each.box[2] - each.box[0], each.box[3] - each.box[1]],
                "area": each.area,
                "iscrowd": int(each.crowd),
                "difficult": each.difficult,
            }
            for number, (image, each) in enumerate(pairs, 1)
        ],
    }


def _class(evaluated: Any, split: BoxSplit, k: int) -> _Class:
    """Return the detections of a class, in all sizes, at most 100 an image."""
    ids = list(evaluated.params.imgIds)
    start = k * len(evaluated.params.areaRng) * len(ids)
    by_id = dict(zip(ids, evaluated.evalImgs[start : start + len(ids)], strict=True))
    rows = [by_id[image.id] for image in split.images]
    overlaps = len(evaluated.params.iouThrs)
    there = [(place, row) for place, row in enumerate(rows) if row is not None]
    objects = np.zeros(len(rows), dtype=np.int64)
    for place, row in there:
        objects[place] = np.count_nonzero(row["gtIgnore"] == 0)
    scores = np.concatenate([[], *(row["dtScores"] for _, row in there)])
    order = np.argsort(-scores, kind="mergesort")
    image = np.concatenate(
        [np.zeros(0, np.int64), *(np.full(len(row["dtScores"]), place) for place, row in there)]
    )
    nothing = np.zeros((overlaps, 0), dtype=bool)
    matched = np.concatenate([nothing, *(row["dtMatches"] > 0 for _, row in there)], 1)
    ignored = np.concatenate([nothing, *(row["dtIgnore"] > 0 for _, row in there)], 1)
    right, wrong = matched & ~ignored, ~matched & ~ignored
    return _Class(image[order], right[:, order], wrong[:, order], objects)


def _curve(detections: _Class, overlap: Any, counts: Any) -> tuple[Any, Any]:
    """Return recall and the precision that is had at that recall or a higher one."""
    total = (detections.objects * counts).sum()
    times = counts[detections.image]
    right = np.cumsum(detections.right[overlap] * times)
    wrong = np.cumsum(detections.wrong[overlap] * times)
    precision = right / (right + wrong + np.spacing(1))
    return right / total, np.maximum.accumulate(precision[::-1])[::-1]


def _interpolated(detections: _Class, recalls: Any, counts: Any) -> float:
    """Return AP over all overlaps: precision at 101 recalls; nan where there is no object."""
    if not (detections.objects * counts).sum():
        return math.nan
    values = []
    for overlap in range(len(detections.right)):
        recall, precision = _curve(detections, overlap, counts)
        places = np.searchsorted(recall, recalls, side="left")
        values.append(np.append(precision, 0.0)[places].mean())
    return float(np.mean(values))


def _whole_area(detections: _Class) -> float:
    """Return the area under the curve at an overlap of 0.5; nan where there is no object."""
    if not detections.objects.sum():
        return math.nan
    recall, precision = _curve(detections, 0, np.ones_like(detections.objects))
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _mean(precision: Any) -> float:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else math.nan


def _there(value: float) -> float:
    return math.nan if value < 0 else value


def _average(values: Sequence[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return float(np.mean(there)) if there else math.nan


# ---- intervals


@final
class PairedInterval(NamedTuple):
    """How far two ways to train are apart, with what images and seeds say of it."""

    mean: float
    """The difference of AP, second minus first, the mean over the seeds."""
    low: float
    """The lower end of the interval."""
    high: float
    """The upper end."""


def paired_interval(
    first: Sequence[Precisions],
    second: Sequence[Precisions],
    *,
    confidence: float = 0.95,
    draws: int = 1000,
) -> PairedInterval:
    """Return the difference of AP and its bootstrap interval over images and seeds.

    Each draw takes as many images as there are, and as many seeds, with replacement; the same for
    both, so what an image or a seed does to both cancels.

    Args:
        first: what detections of the first are worth, one for each seed.
        second: of the second, for the same seeds and images.
        confidence: of the interval.
        draws: how many.

    Raises:
        ConfigError: they are not paired.
    """
    if len(first) != len(second) or not first or len({p.images for p in [*first, *second]}) > 1:
        raise ConfigError(
            f"both must be tested on the same images with the same seeds, got {len(first)} and "
            f"{len(second)} runs"
        )
    generator = np.random.default_rng(0)
    images, seeds = first[0].images, len(first)
    ones = np.ones(images, dtype=np.int64)
    mean = float(np.mean([b.resampled(ones) - a.resampled(ones) for a, b in _pairs(first, second)]))
    differences = []
    for _ in range(draws):
        counts = np.bincount(generator.integers(images, size=images), minlength=images)
        chosen = generator.integers(seeds, size=seeds)
        pairs = [(first[k], second[k]) for k in chosen]
        differences.append(np.mean([b.resampled(counts) - a.resampled(counts) for a, b in pairs]))
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(differences, [tail, 100 - tail])
    return PairedInterval(mean, float(low), float(high))


def _pairs(
    first: Sequence[Precisions], second: Sequence[Precisions]
) -> list[tuple[Precisions, Precisions]]:
    return list(zip(first, second, strict=True))
