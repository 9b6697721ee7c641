"""Testing trained networks, alone or together: accuracy with its interval, per class, the speed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.analysis import proportion_interval
from senet.errors import ConfigError, DataError
from senet.progress import Progress, silent
from senet.training.data import (
    BatchSampler,
    Crops,
    Split,
    Stream,
    Unreadable,
    loaded_rows,
    numbered,
)
from senet.training.loop.callbacks import csv_text
from senet.training.loop.counts import LARGEST_MATRIX, class_results, class_scores
from senet.training.loop.module import channels_last, logits_of
from senet.training.loop.placement import gathered, own_device, processes
from senet.training.trained import Trained

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Predictions", "evaluate", "predict", "predictions_csv", "summary"]

SCHEMA = "senet.eval/1"


@final
@dataclass(frozen=True, eq=False)
class Predictions:
    """What networks said of images.

    Attributes:
        classes: names of the classes.
        names: of the images.
        labels: int64 [N].
        scores: mean softmax over crops and networks, float32 [N, K].
        seconds: that the networks took, with reading the images.
    """

    classes: tuple[str, ...]
    names: list[str]
    labels: Tensor
    scores: Tensor
    seconds: float


def _scores(net: torch.nn.Module, shown: Sequence[list[Tensor]], device: torch.device) -> Tensor:
    """Return the mean softmax of each image over its crops, [N, K]."""
    total, crops = None, 0
    for group in range(len(shown[0])):
        several = [each[group] for each in shown]  # [K, C, H, W] each
        count = len(several[0])
        alike = len({each.shape for each in several}) == 1
        parts = [torch.cat(several)] if alike else several
        logits = [logits_of(net(channels_last(part.to(device))))[0].float() for part in parts]
        scores = F.softmax(torch.cat(logits), 1)
        summed = scores.reshape(len(shown), count, -1).sum(1)
        total = summed if total is None else total + summed
        crops += count
    if total is None:
        raise ConfigError("no crop was made of an image")
    return (total / crops).cpu()


def evaluate(
    networks: Sequence[Trained],
    split: Split | Stream,
    *,
    crops: Crops | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str = "cpu",
    max_bad_images: int = 0,
    on_progress: Progress = silent,
) -> tuple[Predictions, Unreadable]:
    """Return what networks say of a split's images; several average their scores.

    Processes that torchrun began share the images, and each returns the whole.

    Args:
        networks: with the same classes.
        split: labelled images.
        crops: what the networks are shown; the single crop if not given.
        batch_size: images at a time.
        workers: processes that read images.
        device: where the networks run.
        max_bad_images: how many unreadable images are left out.
        on_progress: called with (description, done, total).

    Raises:
        ConfigError: networks with different classes.
        DataError: unreadable images, labels outside of the classes, or a network that does not give
            a score for each class of the split.
    """
    first = networks[0]
    if len({each.classes for each in networks}) > 1:
        raise ConfigError("networks that are averaged must have the same classes")
    how, unreadable = crops or Crops(), Unreadable(max_bad_images)
    began = time.perf_counter()
    expected = len(first.classes or split.classes)
    total: Tensor | None = None
    answers: list[_Answers] = []
    with processes() as (rank, world):
        target = own_device(torch.device(device))
        sampler = BatchSampler(len(split), batch_size * world, rank=rank, world_size=world)
        for number, trained in enumerate(networks):
            answers = []
            images = replace(split, transform=how.transform(trained.view))
            loader = loaded_rows(images, sampler, workers=workers)
            for answer in _answered(trained, zip(sampler, loader, strict=True), target):
                for what in answer.unreadable:
                    unreadable.add(what)
                answers.append(answer)
                _check_scores(trained, answer.scores, expected)
                done = number * len(split) + world * sum(len(each.kept) for each in answers)
                on_progress(f"testing {trained.name}", done, len(networks) * len(split))
            answers = gathered(answers)
            scores = [each.scores for each in answers if each.kept]
            if not scores:
                raise DataError(f"no image of the {split.name} split can be read")
            total = torch.cat(scores) if total is None else total + torch.cat(scores)
    for what in (what for answer in answers for what in answer.unreadable):
        unreadable.add(what)  # of the other processes
    seconds = time.perf_counter() - began
    if total is None:
        raise ConfigError("at least one network must be given")
    return _in_order(split, first.classes, answers, total / len(networks), seconds), unreadable


def _in_order(
    split: Split | Stream,
    names: tuple[str, ...] | None,
    answers: Sequence[_Answers],
    scores: Tensor,
    seconds: float,
) -> Predictions:
    """Return answers, which may come from several processes, in the order of the images."""
    classes = names or split.classes or tuple(map(str, range(scores.shape[1])))
    kept = [pair for answer in answers for pair in answer.kept]
    order = sorted(range(len(kept)), key=lambda k: kept[k][0])
    labels = numbered(split, [kept[k][1] for k in order], classes)
    images = [split.named(kept[k][0]) for k in order]
    return Predictions(tuple(classes), images, torch.tensor(labels), scores[order], seconds)


class _Answers(NamedTuple):
    """What a network said of a batch: position and label of each image, and what cannot be read."""

    kept: list[tuple[int, Any]]
    scores: Tensor
    unreadable: list[str]


def _answered(trained: Trained, batches: Iterable[Any], device: torch.device) -> Iterator[_Answers]:
    """Yield what a network says of each batch."""
    net = trained.net.to(device).to(memory_format=torch.channels_last).eval()
    with torch.inference_mode():
        for positions, rows in batches:
            read = zip(positions, rows, strict=True)
            good = [(position, row) for position, row in read if isinstance(row, tuple)]
            kept = [(position, label) for position, (_, label) in good]
            bad = [row for row in rows if isinstance(row, str)]
            shown = [crops for _, (crops, _) in good]
            yield _Answers(kept, _scores(net, shown, device) if good else torch.empty(0), bad)


def _check_scores(trained: Trained, scores: Tensor, classes: int) -> None:
    if classes and len(scores) and scores.shape[1] != classes:
        raise DataError(
            f"{trained.name} gives {scores.shape[1]} scores, the images have {classes} classes; "
            "try other data, or the weights of a network for these classes"
        )


def summary(predictions: Predictions) -> dict[str, Any]:
    """Return the JSON-able result: top-1, top-5, per class, with Wilson's 95 % intervals.

    Per class it has the recall with its interval as "proportion", precision and F1, and all classes
    together `class_scores`, and for up to 100 classes the confusion matrix: row k counts the
    answers for images of class k.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    labels, images = predictions.labels, len(predictions.labels)
    best = predictions.scores.topk(min(5, predictions.scores.shape[1]), dim=1).indices
    hit = best == labels[:, None]
    matrix = multiclass_confusion_matrix(best[:, 0], labels, len(predictions.classes))
    right, answered, there = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    scores = class_scores(right, answered, there)
    shown = matrix if len(matrix) <= LARGEST_MATRIX else matrix[:0]
    only = scores.pop("only_answer")
    top5 = asdict(proportion_interval(int(hit.sum()), images))
    return {
        "schema": SCHEMA,
        "images": images,
        "top1": asdict(proportion_interval(int(hit[:, 0].sum()), images)),
        "top5": top5 if len(predictions.classes) > 5 else None,
        "loss": float(F.nll_loss(predictions.scores.double().clamp_min(1e-30).log(), labels)),
        **scores,
        "only_answer": None if only is None else predictions.classes[only],
        "classes": list(predictions.classes),
        **class_results(predictions.classes, right, answered, there, shown),
        "seconds": round(predictions.seconds, 3),
        "images_per_second": round(images / max(predictions.seconds, 1e-9), 1),
    }


def predictions_csv(predictions: Predictions) -> str:
    """Return a row for each image: its name and class, and up to five classes with their scores."""
    classes = predictions.classes
    values, best = predictions.scores.topk(min(5, len(classes)), dim=1)
    rows = []
    for name, label, scores, indices in zip(
        predictions.names, predictions.labels.tolist(), values.tolist(), best.tolist(), strict=True
    ):
        row = {"image": name, "label": classes[label]}
        for place, (score, index) in enumerate(zip(scores, indices, strict=True), 1):
            row |= {f"class{place}": classes[index], f"score{place}": f"{score:.6g}"}
        rows.append(row)
    return csv_text(rows)


def predict(
    trained: Trained, images: Iterable[Image.Image], *, crops: Crops | None = None, top: int = 5
) -> list[list[tuple[str, float]]]:
    """Return for each image the best classes with their scores, the best first.

    Without names of the classes, 1,000 are taken for ImageNet's, and others have numbers.

    Args:
        trained: the network.
        images: PIL images; they are taken one by one.
        crops: what the network is shown; the single crop if not given.
        top: how many classes.

    Raises:
        ConfigError: `top` below 1.
    """
    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top}")
    shown = (crops or Crops()).transform(trained.view)
    best = []
    with torch.inference_mode():
        for image in images:
            scores = _scores(trained.net, [shown(image)], torch.device("cpu"))[0]
            values, places = scores.topk(min(top, len(scores)))
            names = trained.classes or _usual_names(len(scores))
            best.append(
                [(names[k], v) for k, v in zip(places.tolist(), values.tolist(), strict=True)]
            )
    return best


def _usual_names(count: int) -> tuple[str, ...]:
    if count != 1000:
        return tuple(map(str, range(count)))
    from timm.data.imagenet_info import ImageNetInfo

    known = ImageNetInfo()
    return tuple(f"{known.index_to_description(k)} ({k})" for k in range(count))
