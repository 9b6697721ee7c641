"""`train_detector`: one run from a configuration, in a folder to go on from; and its network."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from senet.detection.annotations import BoxSplit, open_boxes
from senet.detection.box_data import BoxData, BoxImages, load_boxes
from senet.detection.config import DetectConfig
from senet.detection.detector_module import Detector, sub_split
from senet.detection.detectors import faster_rcnn
from senet.detection.precisions import Precisions, average_precision
from senet.detection.source_network import is_run
from senet.errors import DataError, first_line
from senet.files import write_text
from senet.progress import Progress, silent
from senet.schema import flat, overridden
from senet.training.config import to_yaml
from senet.training.data import NETWORK, BatchSampler, Unreadable, mix_seeds
from senet.training.loop.checkpoints import load_weights
from senet.training.loop.placement import Placement, find_device, is_first_process
from senet.training.loop.runner import check_run, train_run
from senet.training.loop.stopping import stop_on_interrupt
from senet.training.run_folder import (
    begun_with,
    check_data,
    check_same,
    circumstances,
    done_result,
    exclusive,
    write_result,
)

__all__ = [
    "SCHEMA",
    "TrainedDetector",
    "evaluate_detector",
    "load_detector",
    "split_images",
    "train_detector",
]

SCHEMA = "senet.detect/1"
# What may change where a run goes on: it changes no number.
_FREE = ("train.workers", "data.max_bad_images", "data.root", "data.images", "logger")


@final
@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """A detector with what is needed to use it.

    Attributes:
        net: with its weights, in test mode.
        classes: names of the classes; label k is classes[k - 1].
        config: how it was trained.
    """

    net: nn.Module
    classes: tuple[str, ...]
    config: DetectConfig


@exclusive
def train_detector(
    config: DetectConfig,
    *,
    out: str | os.PathLike[str],
    resume: bool = False,
    placement: Placement | None = None,
    save_every: int | None = None,
    command: str = "",
    on_progress: Progress = silent,
) -> dict[str, Any]:
    """Train a detector, or go on with it.

    The folder gets `config.yaml` (every value), `run.json` (the result), `history.json` and `.csv`
    with COCO's numbers of each test, `detections.json` (the boxes of the last test, as COCO's
    results) and the last two checkpoints. On a CPU an interrupted run ends with the weights of an
    undisturbed one to the last bit, however it was interrupted.

    Args:
        config: what to train, on what, how.
        out: the folder; new or empty.
        resume: go on with the run that is there, or begin if there is none.
        placement: on which devices; one, chosen, if not given.
        save_every: save after so many steps too, beside after each test.
        command: what the result names as the command.
        on_progress: called with (description, done, total).

    Returns:
        The result, schema `senet.detect/1`, as in run.json. "state" is "done", "stopped" after
        Ctrl-C, "requeue" after a signal of the batch system; then `resume` goes on.

    Raises:
        ConfigError: an option that cannot be, a folder that is not empty, options that changed.
        DataError: missing or unreadable data.
        TrainingError: the loss is not finite, or the disk is full.
    """
    folder, where = Path(out), placement or Placement()
    device = find_device(where.device)
    check_run(config.train.loop(), device, save_every=save_every, logger=config.logger)
    if first := is_first_process():
        before = begun_with(folder, DetectConfig(), resume=resume)
        check_same(before or config, config, free=_FREE)
    data = load_boxes(config.data, config.train)
    if resume and (finished := _finished(folder, data)) is not None:
        return finished
    net = _built(config, data.classes)
    _try(net, data, config)
    if first:
        write_text(folder / "config.yaml", to_yaml(config))
    with stop_on_interrupt() as stop:
        run = train_run(
            *(net, data, config.train.loop()),
            folder=folder,
            device=where,
            title=config.model,
            on_progress=on_progress,
            stop=stop,
            save_every=save_every,
            logger=config.logger,
            hyperparameters=flat(config),
            module=Detector,
        )
    state = "done" if run.done else "requeue" if stop.preempted else "stopped"
    result = {
        "schema": SCHEMA,
        "state": state,
        "command": command,
        **circumstances(config, where),
        "data": data.summary(),
        "epochs": run.epochs,
    }
    if first:
        write_result(folder / "run.json", result)
    return result


def _finished(folder: Path, data: BoxData) -> dict[str, Any] | None:
    """Return the result of a run that is done: going on with it changes nothing."""
    result = done_result(folder)
    if result is not None:
        check_data(result["data"], data.fingerprint(), folder)
    return result


def _built(config: DetectConfig, classes: tuple[str, ...]) -> nn.Module:
    """Return the detector as training begins with it; the caller's random numbers stay.

    Without and with SE it has the same weights where it shares them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seeds(config.train.seed, NETWORK))
        net = faster_rcnn(
            config.model,
            len(classes) + 1,
            se=config.se,
            weights=config.weights,
            **config.detector.options(),
        )
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    net.backbone.precision = half.get(config.train.precision)
    return net  # type: ignore[no-any-return]


def _try(net: nn.Module, data: BoxData, config: DetectConfig) -> None:
    """Compute the losses of the first batch with a copy.

    Raises:
        DataError: the network cannot take the images.
    """
    train = config.train.loop()
    images, targets = next(iter(data.train_batches(train, epoch=0)))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            copy.deepcopy(net).train()(images[:2], targets[:2])
        except Exception as error:  # a network raises anything
            raise DataError(
                f"{config.model} cannot take the images: {type(error).__name__}: "
                f"{first_line(error)}; try another min_size"
            ) from error


def load_detector(folder: str | os.PathLike[str]) -> TrainedDetector:
    """Return the detector of a run of `senet detect train` or `compare`, with its last weights.

    Raises:
        DataError: the folder holds no such run.
    """
    path = Path(folder) / "run.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["schema"] != SCHEMA:
            raise ValueError(f"its schema is {result['schema']}")
        config = DetectConfig.from_dict(result["config"])
        classes = tuple(result["data"]["classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no run of senet detect that can be read: run.json gives "
            f"{type(error).__name__}; a run has it once it is finished or was stopped"
        ) from error
    without = overridden(config, {"weights": None})
    kept = overridden(without, {"detector.norm": config.detector.norm or _norm(config)})
    stages = config.detector.trainable_stages
    if stages is None and _with_weights(config):
        kept = overridden(kept, {"detector.trainable_stages": 3})
    net = load_weights(_built(kept, classes), Path(folder)).eval()
    return TrainedDetector(net, classes, config)


def _with_weights(config: DetectConfig) -> bool:
    return config.weights is not None or is_run(config.model)


def _norm(config: DetectConfig) -> str:
    return "frozen" if _with_weights(config) else "train"


def split_images(
    trained: TrainedDetector,
    root: str | os.PathLike[str] | None = None,
    split: str | None = None,
) -> BoxSplit:
    """Return the images of a split; of the test split of its training if not given."""
    data = trained.config.data
    place = Path(data.root if root is None else root)
    return open_boxes(place, split or data.test_split, classes=trained.classes, images=data.images)


def evaluate_detector(
    trained: TrainedDetector,
    root: str | os.PathLike[str] | None = None,
    split: str | None = None,
    *,
    batch_size: int = 4,
    device: str = "auto",
    max_bad_images: int = 0,
    on_progress: Progress = silent,
) -> tuple[Precisions, BoxSplit, list[dict[str, torch.Tensor]]]:
    """Return what a detector's boxes in a split are worth, the images, and the boxes.

    Args:
        trained: the detector.
        root: of the data; that of its training if not given.
        split: name of the split; the test split of its training if not given.
        batch_size: images at a time.
        device: where it runs.
        max_bad_images: images that cannot be read are left out, up to so many.
        on_progress: called with (description, done, total).

    Raises:
        DataError: see `open_boxes`; too many images that cannot be read.
    """
    images = split_images(trained, root, split)
    target, unreadable = find_device(device), Unreadable(max_bad_images)
    net = trained.net.to(target).eval()
    detected: dict[int, dict[str, torch.Tensor]] = {}
    rows = BoxImages(images)
    for positions in BatchSampler(len(images), batch_size):
        kept = []
        for position in positions:
            row = rows[position]
            if isinstance(row, str):
                unreadable.add(row)
            else:
                kept.append((position, row[0]))
        with torch.no_grad():
            outputs = net([image.to(target) for _, image in kept]) if kept else []
        for (position, _), output in zip(kept, outputs, strict=True):
            detected[position] = {name: value.cpu() for name, value in output.items()}
        on_progress(f"testing on {images.name}", max(positions) + 1, len(images))
    tested = sub_split(images, sorted(detected))
    detections = [detected[position] for position in sorted(detected)]
    return average_precision(tested, detections), tested, detections
