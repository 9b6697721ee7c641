"""Labels become class indices by the names of the classes; a subset keeps their shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from senet.errors import ConfigError, DataError
from senet.training.config import DataConfig
from senet.training.data.dataset import Split, Stream, composed

__all__ = ["class_index", "class_names", "folds", "images_per_class", "numbered", "subset"]


def class_names(
    config: DataConfig, train: Split | Stream, test: Split | Stream, seen: Sequence[Any]
) -> tuple[str, ...]:
    """Return the names of the classes: those of the training data, else its labels, sorted.

    Args:
        config: which data.
        train: the training split.
        test: the test split.
        seen: the labels of the training split.

    Raises:
        DataError: labels that mean none, fewer than two classes, or classes in the test only.
    """
    names = tuple(train.classes)
    if not names:
        each = {composed(label) if isinstance(label, str) else label for label in seen}
        names = tuple(map(str, sorted(each, key=lambda label: (isinstance(label, str), label))))
        if any(isinstance(label, int) and label < 0 for label in each):
            raise DataError(
                f"labels of {config.name} must be 0 or more, or have names, got {min(seen)}, which "
                "often marks images without a label; leave these out"
            )
    if (count := len(set(seen))) < 2:
        raise DataError(
            f"{config.name} has training images of {count} class "
            f"({', '.join(names[:5]) or 'none'}); a comparison needs at least 2"
        )
    if new := [name for name in test.classes if name not in names]:
        raise DataError(
            f"the {test.name} split of {config.name} has classes that the {train.name} split does "
            f"not have: {', '.join(new[:5])}"
        )
    return names


def class_index(split: Split | Stream, classes: Sequence[str]) -> Callable[[Any], int]:
    """Return the function from a label of a split to the index of its name in `classes`.

    It raises `DataError` for a label that is none of the classes.
    """
    index = {composed(name): number for number, name in enumerate(classes)}

    @cache
    def number(label: Any) -> int:
        name: str | None = composed(str(label))
        if isinstance(label, int) and split.classes:
            name = split.classes[label] if 0 <= label < len(split.classes) else None
        if name not in index:
            raise DataError(_stranger(split, classes, name if split.classes else None, label))
        return index[name]

    return number


def _stranger(split: Split | Stream, classes: Sequence[str], name: str | None, label: Any) -> str:
    """Return what is said of a label that is none of the classes."""
    known = f"{len(classes)} classes: {', '.join(classes[:5])}{', ...' * (len(classes) > 5)}"
    if name is None:
        return f"the {split.name} split has the label {label!r}, which is none of the {known}"
    absent = [each for each in classes if composed(each) not in split.classes]
    missing = f"; the split has no class {', '.join(absent[:5])}" if absent else ""
    return (
        f"class {name} of the {split.name} split is none of the {known}{missing}; rename the "
        "folder, or give other data"
    )


def numbered(split: Split | Stream, labels: Sequence[Any], classes: Sequence[str]) -> list[int]:
    """Return labels of a split as indices into `classes`; see `class_index`."""
    return list(map(class_index(split, classes), labels))


def images_per_class(
    train: Split | Stream, test: Split | Stream, classes: Sequence[str]
) -> dict[str, Any]:
    """Return split -> class -> number of images; of a stream the number of all images."""
    counts: dict[str, Any] = {}
    for name, split in (("train", train), ("test", test)):
        counts[name] = len(split)
        if isinstance(split, Split):
            labels = Counter(numbered(split, split.labels, classes))
            counts[name] = {each: labels[index] for index, each in enumerate(classes)}
    return counts


def subset(config: DataConfig, name: str, labels: Sequence[int]) -> Sequence[int]:
    """Return which training images are used: all, or `config.train_images` of them.

    Raises:
        ConfigError: there are not so many.
    """
    wanted = len(labels) if config.train_images is None else config.train_images
    if wanted > len(labels):
        raise ConfigError(
            f"train_images must be at most {len(labels)}, the size of the {name} split, "
            f"got {wanted}"
        )
    if wanted == len(labels):
        return range(wanted)
    return [int(index) for index in stratified(torch.tensor(labels), wanted)]


def folds(labels: Sequence[int], count: int) -> Tensor:
    """Return the fold of each image, from 0: a fixed division that keeps the shares of the classes.

    Example:
        >>> folds([0] * 4 + [1] * 6, 2).bincount().tolist()
        [5, 5]
    """
    of_class = torch.tensor(labels)
    shuffled = torch.randperm(len(of_class), generator=torch.Generator().manual_seed(1))
    number = torch.empty(len(of_class), dtype=torch.int64)
    first = 0  # classes begin where the one before has ended, so that the folds are alike in size
    for label in range(int(of_class.max()) + 1):
        members = shuffled[of_class[shuffled] == label]
        number[members] = (first + torch.arange(len(members))) % count
        first += len(members)
    return number


def stratified(labels: Tensor, count: int) -> Tensor:
    """Return the indices, sorted, of a fixed subset that keeps the shares of the classes.

    Larger subsets contain the smaller ones.

    Example:
        >>> labels = torch.tensor([0] * 10 + [1] * 20)
        >>> labels[stratified(labels, 6)].tolist()
        [0, 0, 1, 1, 1, 1]
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    share = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.arange(int(labels.max()) + 1):
        members = shuffled[labels[shuffled] == label]
        share[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return share.argsort(stable=True)[:count].sort().values
