"""Images with boxes as batches of a training part, a function of seed, step and rank alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Sampler

from senet.detection.annotations import BoxSplit, ImageBoxes, open_boxes
from senet.detection.config import BoxDataConfig, DetectTrainConfig
from senet.errors import ConfigError, DataError
from senet.training.config import TrainConfig
from senet.training.data import BatchSampler, Unreadable, mix_seeds, opened_image
from senet.training.data.dataset import LabelledImages, reason
from senet.training.data.loader import Batches
from senet.training.data.sampler import AUGMENT, MicroBatch, epoch_order

__all__ = ["BoxData", "BoxImages", "load_boxes", "read_image"]


def read_image(image: ImageBoxes) -> Image.Image:
    """Return an image as it was annotated: upright, unless its annotated size is the unturned one.

    Raises:
        DataError: it cannot be read, or has another size than is annotated.
    """
    try:
        opened = opened_image(image.file)
        if image.size is not None and opened.size != image.size:
            with Image.open(image.file) as raw:
                unturned = raw.convert("RGB")
            if unturned.size != image.size:
                raise ValueError(f"it is {opened.size}, {image.size} is annotated")
            opened = unturned
    except Exception as error:  # decoders raise anything
        raise DataError(f"{image.file} cannot be read: {reason(error)}") from error
    return opened


@final
@dataclass(frozen=True, eq=False)
class BoxImages(LabelledImages):
    """The images of a split: position -> (image [3, H, W] in [0, 1], target).

    A target has "boxes" [n, 4], "labels" [n], both without crowds, and the "position" of the image.
    In training a position counts through all passes over the images: each pass flips anew.

    Attributes:
        split: the images.
        seed: of the flips; None: none.
    """

    split: BoxSplit
    seed: int | None = None

    shuffled = opened_by_workers = True

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, number: int) -> tuple[Tensor, dict[str, Tensor]] | str:
        turn, position = divmod(number, len(self.split))
        image = self.split.images[position]
        try:
            pixels = np.asarray(read_image(image))
        except DataError as error:
            return str(error)
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        objects = [each for each in image.objects if not each.crowd]
        boxes = torch.tensor([each.box for each in objects], dtype=torch.float32).reshape(-1, 4)
        if self.seed is not None and mix_seeds(self.seed, turn, AUGMENT, position) % 2:
            tensor = tensor.flip(-1)
            boxes[:, [0, 2]] = tensor.shape[-1] - boxes[:, [2, 0]]
        labels = torch.tensor([each.label for each in objects], dtype=torch.int64)
        return tensor, {"boxes": boxes, "labels": labels, "position": torch.tensor(position)}


@final
@dataclass(frozen=True)
class _StepSampler(Sampler[MicroBatch]):
    """The micro-batches of this process in one part of a training, which counts steps.

    The steps go through the images again and again, in a new order each time.
    """

    count: int
    train: TrainConfig
    first: int  # step of the run
    steps: int
    rank: int
    world_size: int
    accumulate: int
    skip: int
    key: tuple[int, int]

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[MicroBatch]:
        batch = min(self.train.batch_size, self.count)
        if batch % (self.world_size * self.accumulate):
            raise ConfigError(
                f"a batch of {batch} images must be a multiple of {self.world_size} devices x "
                f"{self.accumulate} micro-batches (accumulate); try another batch_size"
            )
        size, per_pass = batch // (self.world_size * self.accumulate), self.count // batch
        known, order = -1, torch.zeros(0)
        for number in range(self.skip, len(self)):
            step, cut = divmod(number, self.accumulate)
            turn, place = divmod(self.first + step, per_pass)
            if turn != known:
                known, order = turn, epoch_order(self.count, seed=self.train.seed, epoch=turn)
            start = place * batch + (cut * self.world_size + self.rank) * size
            positions = (turn * self.count + order[start : start + size]).tolist()
            yield MicroBatch(positions, step=step, part=slice(0, size), batch=batch)


@final
@dataclass(frozen=True, eq=False)
class BoxData:
    """Data that are ready for training.

    Attributes:
        config: what was asked for.
        recipe: how is trained.
        train: the training images.
        test: the test images.
        unreadable: the images that could not be read and were left out, so far.
    """

    config: BoxDataConfig
    recipe: DetectTrainConfig
    train: BoxSplit
    test: BoxSplit
    unreadable: Unreadable = field(default_factory=Unreadable)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; class index k is classes[k - 1]."""
        return self.train.classes

    def steps(self, _train: TrainConfig) -> int:
        """Return the number of steps of a part."""
        return self.recipe.part

    def train_batches(
        self,
        train: TrainConfig,
        *,
        epoch: int,
        skip: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> Batches:
        """Return the micro-batches of a part, a function of the arguments alone."""
        part = self.recipe.part
        sampler = _StepSampler(
            *(len(self.train), train, epoch * part, part, rank, world_size, accumulate, skip),
            key=(train.seed, epoch),
        )
        images = BoxImages(self.train, train.seed if self.recipe.flip else None)
        return self._batches(images, sampler, train)

    def test_batches(self, train: TrainConfig, **place: Any) -> Batches:
        """Return the batches of a test: every image once."""
        sampler = BatchSampler(len(self.test), train.batch_size, **place)
        return self._batches(BoxImages(self.test), sampler, train)

    def _batches(self, images: BoxImages, sampler: Any, train: TrainConfig) -> Batches:
        workers = min(4, os.cpu_count() or 1) if train.workers is None else train.workers
        options: dict[str, Any] = {"workers": workers, "unreadable": self.unreadable}
        return Batches(images, sampler, collate=_collated, **options)

    def fingerprint(self) -> dict[str, Any]:
        """Return what a run must find again where it goes on: classes, and boxes of each."""
        labels = [each.label for image in self.train.images for each in image.objects]
        counts = {name: labels.count(k) for k, name in enumerate(self.classes, 1)}
        return {"classes": list(self.classes), "images_per_class": counts}

    def summary(self) -> dict[str, Any]:
        """Return what results say about the data."""
        return {
            "name": self.config.root,
            "train_images": len(self.train),
            "test_images": len(self.test),
            "left_out": list(self.unreadable.seen),
            "passed_over": [*self.train.left_out, *self.test.left_out],
            **self.fingerprint(),
        }


def _collated(rows: Any) -> tuple[list[str], Any]:
    """Return what is wrong with the images that cannot be read, and the batch of the others."""
    bad = [row for row in rows if isinstance(row, str)]
    good = [row for row in rows if not isinstance(row, str)]
    images, targets = zip(*good, strict=True) if good else ((), ())
    return bad, (list(images), list(targets)) if good else None


def load_boxes(config: BoxDataConfig, recipe: DetectTrainConfig) -> BoxData:
    """Open and check both splits.

    Raises:
        DataError: see `open_boxes`; or one file for both splits.
    """
    train = open_boxes(
        config.root, config.train_split, classes=config.classes, images=config.images
    )
    test = open_boxes(config.root, config.test_split, classes=train.classes, images=config.images)
    test = replace(test, category_ids=train.category_ids)
    return BoxData(config, recipe, train, test, Unreadable(config.max_bad_images))
