"""Looking at the gates of a trained network on its data."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from senet.analysis import GateCosts, Gates, gate_costs, record_gates
from senet.analysis.image_gates import ImageGates, image_gates
from senet.errors import ConfigError, DataError
from senet.progress import Progress, silent
from senet.training.config import DataConfig
from senet.training.data import Crops, Split, Stream, TestedImages, Unreadable, evenly, open_split
from senet.training.trained import Trained

__all__ = ["Seen", "class_names_of", "gate_history", "look", "look_at_image"]


@final
@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of a network's gates.

    Attributes:
        gates: on the test images.
        costs: what the blocks are worth on test images; None if that was not asked for.
        held_at: of which images the means are at which gates are held.
        unreadable: the images that were left out.
        passed_over: a line on files of the test split that are not used.
    """

    gates: Gates
    costs: GateCosts | None
    held_at: str
    unreadable: Unreadable
    passed_over: str


def look(
    trained: Trained,
    data: DataConfig,
    *,
    images: int = 10_000,
    cost_images: int = 2_000,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str = "cpu",
    on_progress: Progress = silent,
) -> Seen:
    """Record the gates of a network on test images, and test it with gates held and removed.

    Gates are held at their means over training images; over the test images where there is no
    training split.

    Args:
        trained: the network.
        data: which images; up to `max_bad_images` of each split that cannot be read are left out.
        images: how many of each split are looked at, evenly spread; all where there are fewer.
        cost_images: on how many test images the costs are taken; 0 for no costs.
        batch_size: images at a time.
        workers: processes that read images.
        device: where the network runs.
        on_progress: called with (description, done, total).

    Raises:
        ConfigError: a number of images that cannot be.
        DataError: missing data, or too many images that cannot be read.
        InputError: the network has no gate.
    """
    for name, value, least in (("images", images, 1), ("cost_images", cost_images, 0)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    test = open_split(data, training=False)
    unreadable = Unreadable(data.max_bad_images)
    classes = class_names_of(trained, test, data)
    net = trained.net.to(device).to(memory_format=torch.channels_last)
    run: Any = {"device": device, "on_progress": on_progress}

    def some(split: Split | Stream, count: int) -> TestedImages:
        return TestedImages(
            *(split, trained.view, classes),
            chosen=evenly(len(split), count),
            batch_size=batch_size,
            workers=workers,
            unreadable=unreadable,
        )

    shown = some(test, images)
    gates = record_gates(net, shown, classes=classes, **run)
    costs, held_at = None, ""
    if cost_images:
        means, held_at = gates.means(), "test images"
        train = _training_split(data)
        if train is not None and len(train):
            means, held_at = (
                record_gates(net, some(train, images), **run).means(),
                "training images",
            )
        costs = gate_costs(net, some(test, cost_images), means, classes=classes, **run)
    return Seen(gates, costs, held_at, unreadable, test.passed_over)


def class_names_of(trained: Trained, split: Split | Stream, data: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes: the network's, else those of the data.

    Raises:
        DataError: neither has names.
    """
    classes = tuple(trained.classes or split.classes)
    if not classes:
        raise DataError(
            f"{data.name} names no classes, and neither does {trained.name}; give an image folder"
        )
    return classes


def _training_split(data: DataConfig) -> Split | Stream | None:
    try:
        return open_split(data, training=True)
    except DataError:  # data to test on need none
        return None


def look_at_image(trained: Trained, image: Any, gates: Gates, *, name: str) -> ImageGates:
    """Return the gates of one image.

    Args:
        trained: the network.
        image: a PIL image.
        gates: of the network on a data set.
        name: of the image.
    """
    seen = Crops().transform(trained.view)(image)[0]
    device = next((p.device for p in trained.net.parameters()), torch.device("cpu"))
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (trained.view.mean, trained.view.std)
    )
    shown = (seen[0] * std + mean).clamp(0, 1).movedim(0, 2)
    return image_gates(trained.net, seen.to(device), gates, name=name, shown=shown)


def gate_history(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's `gates.csv`; none where there is no such file."""
    path = folder / "gates.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
