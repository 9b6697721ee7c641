"""The images of one split as a map-style dataset: position -> (image, class index).

A `Split` opens its images one by one, in any order; a `Stream` in the order in which they come.
Small images lie in memory: `senet.training.data.memory`.
"""

from __future__ import annotations

import random
import unicodedata
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from senet.errors import DataError, first_line
from senet.training.data.image_files import opened_image
from senet.training.data.sampler import AUGMENT, mix_seeds

__all__ = ["LabelledImages", "Split", "Stream", "composed", "reason"]


class LabelledImages(Dataset[Any], ABC):
    """The images of one split: position -> (image, class index).

    Where an image cannot be read, what is wrong takes the place of the two; None where a stream
    has ended before.
    """

    shuffled = False  # whether training draws an order, which a stream cannot have
    opened_by_workers = False

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""


@final
@dataclass(frozen=True, eq=False)
class Split(LabelledImages):
    """Images that are opened when they are needed, with labels that are known before.

    Attributes:
        name: of the split.
        classes: names of the classes, index k is classes[k]; empty where the data do not say.
        labels: one for each image.
        read: finds the image at an index: a path, an open file or a PIL image. It is pickled where
            other processes read.
        filename: names the image at an index, where it has a name.
        passed_over: one line about files that are no part of the split, empty where there is none.
        index: of the image at each position; None for the position itself.
        transform: what becomes of an image; None for nothing.
        key: (seed, epoch) of the random numbers of the transform; None where it draws none.

    Raises:
        DataError: two classes of one name.
    """

    name: str
    classes: Sequence[str]
    labels: Sequence[Any]
    read: Callable[[int], Any]
    filename: Callable[[int], Any] | None = None
    passed_over: str = ""
    index: Sequence[int] | None = None
    transform: Callable[[Any], Any] | None = None
    key: tuple[int, int] | None = None

    shuffled = opened_by_workers = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _composed_once(self.name, self.classes))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Any, Any] | str:
        label = self.labels[position % len(self)]
        try:
            image = self.image(position % len(self))
        except DataError as error:
            return str(error)
        return _transformed(image, self.transform, self.key, position), label

    def image(self, position: int) -> Image.Image:
        """Return the image as it is opened: upright, in RGB or grey.

        Raises:
            DataError: it cannot be read; the message has its number, its name and the reason.
        """
        index = position if self.index is None else self.index[position]
        try:
            source = self.read(index)
            with source if hasattr(source, "read") else nullcontext():
                return opened_image(source)
        except Exception as error:  # readers and decoders raise anything
            name = self.named(position)
            raise DataError(
                f"image {index} of the {self.name} split cannot be read: "
                f"{'' if name == str(index) else f'{name}: '}{reason(error)}"
            ) from error

    def named(self, position: int) -> str:
        """Return the image's name: its file's, or its number where it has none."""
        index = position if self.index is None else self.index[position]
        try:
            name = self.filename(index) if self.filename else None
        except Exception:  # noqa: BLE001 - a name in a message is not worth another error
            name = None
        return str(name or index)


@final
@dataclass(eq=False)
class Stream(LabelledImages):
    """Images that come as a stream: positions must rise; a lower one begins the stream again.

    Attributes:
        name: of the split.
        open_stream: opens timm's dataset, for training in an order that depends on the seed, or
            (None) in the fixed order.
        count: how many images it says it has.
        classes: names of the classes; empty where the data do not say.
        number: what becomes of a label; None for nothing.
        transform: what becomes of an image; None for nothing.
        key: (seed, epoch) of an epoch of training; None for the fixed order.
        passed_over: empty: what a stream's reader cannot decode, it steps over without a word.
    """

    name: str
    open_stream: Callable[[int | None], Any]
    count: int
    classes: Sequence[str] = ()
    number: Callable[[Any], int] | None = None
    transform: Callable[[Any], Any] | None = None
    key: tuple[int, int] | None = None
    passed_over: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.classes = _composed_once(self.name, self.classes)
        self._pairs: Iterator[tuple[Any, Any]] = iter(())
        self._taken = self._next = self.count  # so that the first position opens the stream

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> tuple[Any, Any] | None:
        if position >= self.count:
            raise IndexError(position)
        if position < self._next:
            seed = None if self.key is None else mix_seeds(*self.key, AUGMENT) % 2**31
            self._pairs, self._taken = iter(self.open_stream(seed)), 0
        self._next = position + 1
        pair = next(islice(self._pairs, position - self._taken, None), None)
        if pair is None:
            warnings.warn(
                f"the stream ends before image {position} of {len(self)}: what its reader cannot "
                "decode, it steps over",
                stacklevel=2,
            )
            return None
        self._taken = position + 1
        image = _transformed(opened_image(pair[0]), self.transform, self.key, position)
        return image, pair[1] if self.number is None else self.number(pair[1])

    def named(self, position: int) -> str:
        """Return the image's number: it has no other name."""
        return str(position)


def _transformed(
    image: Image.Image,
    transform: Callable[[Any], Any] | None,
    key: tuple[int, int] | None,
    position: int,
) -> Any:
    """Return an image transformed with random numbers that depend on key and position only."""
    if transform is None:
        return image
    if key is None:
        return transform(image)
    with _drawing_from(*key, AUGMENT, position):
        return transform(image)


@contextmanager
def _drawing_from(*keys: int) -> Iterator[None]:
    """Seed the three generators that timm's transforms draw from; outside they are as before."""
    seed = mix_seeds(*keys)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def composed(name: str) -> str:
    """Return a name in Unicode's composed form: macOS writes é as two characters, others as one."""
    return unicodedata.normalize("NFC", name)


def _composed_once(split: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes in composed form, each of which must be there once."""
    names = tuple(composed(name) for name in classes)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(
            f"the classes of the {split} split must differ, also where Unicode has two ways to "
            f"write them, got twice: {', '.join(twice[:5])}; merge or rename them"
        )
    return names


def reason(error: BaseException) -> str:
    """Return what an error says, in one line with its type."""
    return f"{type(error).__name__}: {first_line(error)}"
