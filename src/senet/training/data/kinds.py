"""Opening data by name: the embedded digits, and everything that `timm.data.create_dataset` opens.

What comes out is two splits that are alike whatever is behind them. timm's own datasets step over
images that they cannot read; here such an image is an error with its name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from PIL import Image

from senet.errors import DataError, unknown_name
from senet.training.config import DataConfig
from senet.training.data.image_files import SUFFIXES
from senet.training.data.shards import Shards, find_shards
from senet.training.data.split import IndexedSplit, Split, StreamSplit, class_names, first_line

__all__ = ["open_split", "open_splits"]

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "val", "valid", "validation", "eval", "evaluation")

# Names of torchvision's datasets that timm opens, without and with the prefix.
_TORCHVISION = (
    *("cifar10", "cifar100", "fashion_mnist", "imagenet", "inaturalist", "kmnist", "mnist"),
    *("places365", "qmnist"),
)
_STREAMS = ("wds", "tfds", "hfids")
KNOWN = (
    *("digits", "folder", *(f"torch/{name}" for name in _TORCHVISION)),
    *("hfds/", "hfids/", "tar/", "wds/"),
)


@final
@dataclass(frozen=True)
class _First:
    """Reads the first part of a sample; no lambda, since it travels to the reading processes."""

    samples: Any

    def __call__(self, index: int) -> Any:
        return self.samples[index][0]


def open_splits(config: DataConfig) -> tuple[Split, Split]:
    """Open the training and the test split.

    Raises:
        DataError: a folder is missing, or something cannot be opened.
        UnknownNameError: the name is neither a folder nor a known kind of data.
    """
    return open_split(config, training=True), open_split(config, training=False)


def open_split(config: DataConfig, *, training: bool) -> Split:
    """Open one of the splits.

    Raises:
        DataError: a folder is missing, or something cannot be opened.
        UnknownNameError: the name is neither a folder nor a known kind of data.
    """
    given = config.train_split if training else config.test_split
    usual = TRAIN_NAMES if training else TEST_NAMES
    if config.name == "digits":
        return _digits()[0 if training else 1]
    name = _full_name(config)
    if not name:
        return _folder_split(config, given, usual)
    if name.startswith("tar/"):
        return _tar_split(Path(name.removeprefix("tar/")), given, usual)
    with _quiet():
        return _open_first(config, name, _candidates(name, given, usual))


def _full_name(config: DataConfig) -> str:
    """Return the name for `create_dataset`; empty for an image folder.

    A prefix comes before a folder of its name, which can be given as ./wds.
    """
    prefix, slash, rest = config.name.partition("/")
    if slash and prefix == "torch":
        if rest not in _TORCHVISION:
            raise unknown_name("torchvision data", rest, _TORCHVISION)
        return config.name
    if prefix == "tar" and not Path(rest).expanduser().is_dir():
        raise DataError(f"the folder of {config.name} does not exist: {rest}")
    if prefix == "wds" and rest and Path(rest).expanduser().is_dir():
        return f"tar/{Path(rest).expanduser()}"  # shards on this machine are read in any order
    if slash and prefix in ("hfds", "tar", *_STREAMS):
        path = Path(rest).expanduser()
        if rest.startswith(("/", "./", "../", "~")) and not path.exists():
            raise DataError(f"the folder of {config.name} does not exist: {path}")
        return f"{prefix}/{path}" if path.exists() and rest else config.name
    if config.name == "folder" or Path(config.name).expanduser().is_dir():
        return ""
    if config.name in _TORCHVISION:
        return f"torch/{config.name}"
    if slash or config.name.startswith((".", "~")):
        raise DataError(
            f"the image folder {config.name} does not exist; other data are named like "
            "digits, hfds/PATH_OR_NAME, wds/ or torch/cifar10"
        )
    raise unknown_name("data", config.name, KNOWN)


def _candidates(name: str, given: str | None, usual: Sequence[str]) -> Sequence[str]:
    if given is not None:
        return (given,)
    if name.startswith("torch/"):  # timm's own names for the two
        return ("train",) if usual is TRAIN_NAMES else ("val",)
    return usual


def _open_first(config: DataConfig, name: str, splits: Sequence[str]) -> Split:
    """Open the first split that is there."""
    first: Exception | None = None
    for split in splits:
        try:
            return _open(config, name, split)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - every library behind timm raises its own
            first = first or error
            if isinstance(error, OSError):  # not there, or out of reach: so is every other split
                break
    tried = " or ".join(repr(split) for split in splits)
    named = len(splits) > 1 and not isinstance(first, OSError)
    hint = "; or name the split" if named else ""
    if name.startswith("torch/") and not config.download:
        hint = "; give its folder as the data's root, or let it be downloaded"
    reason = first_line(first) if first else ""
    raise DataError(f"{config.name} has no readable split {tried}: {reason}{hint}") from first


def _open(config: DataConfig, name: str, split: str) -> Split:
    from timm.data.dataset_factory import create_dataset

    prefix = name.partition("/")[0]
    options: dict[str, Any] = {"root": config.root, "split": split}
    if prefix == "torch":
        dataset = create_dataset(name, download=config.download, **options)
        classes, labels = _torchvision_classes(dataset), _torchvision_labels(dataset)
        return IndexedSplit(split, classes, labels, _First(dataset))
    options |= {"input_key": config.image_key, "target_key": config.label_key}
    if prefix in _STREAMS:

        def open_stream(seed: int | None) -> Any:
            return create_dataset(name, is_training=seed is not None, seed=seed or 0, **options)

        return StreamSplit(split, open_stream)
    return _indexed(split, create_dataset(name, **options).reader)


def _tar_split(root: Path, given: str | None, usual: Sequence[str]) -> Split:
    """Open tar files; see `senet.training.data.shards`."""
    name, paths = find_shards(root, usual if given is None else (given,))
    shards = Shards(paths)
    read = shards.__getitem__
    return IndexedSplit(name, shards.classes, shards.labels, read, shards.filename)


def _indexed(split: str, reader: Any) -> IndexedSplit:
    """Return the split behind one of timm's readers: an image folder, or Hugging Face datasets."""
    if hasattr(reader, "samples"):
        labels = [label for _, label in reader.samples]
    else:
        labels = _hugging_face_labels(reader)
    names = class_names(reader.class_to_idx)
    return IndexedSplit(split, names, labels, _First(reader), reader.filename)


def _hugging_face_labels(reader: Any) -> list[Any]:
    columns = reader.dataset.column_names
    first = reader.dataset[0] if len(reader.dataset) else dict.fromkeys(columns, "")
    for option, key in (("image_key", reader.image_key), ("label_key", reader.label_key)):
        if first.get(key) is None:  # timm adds the column that it looks for
            there = ", ".join(column for column in columns if first[column] is not None)
            raise DataError(
                f"{reader.split!r} has no column {key!r}, it has {there}; name it by {option}"
            )
    return list(reader.dataset[reader.label_key])


def _torchvision_classes(dataset: Any) -> Sequence[str]:
    return [name if isinstance(name, str) else name[0] for name in getattr(dataset, "classes", ())]


def _torchvision_labels(dataset: Any) -> list[int]:
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [dataset[index][1] for index in range(len(dataset))]
    return [int(label) for label in targets]


def _folder_split(config: DataConfig, given: str | None, usual: Sequence[str]) -> Split:
    """Open a split of an image folder: DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg."""
    from timm.data.dataset_factory import create_dataset

    path = config.root if config.name == "folder" else config.name
    if path is None:
        raise DataError("the data 'folder' need the path of the image folder as their root")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"the image folder {root} does not exist")
    folder = _subfolder(root, given, usual)
    _check_classes(folder)
    try:
        suffixes = ";".join(SUFFIXES)  # by itself timm takes .jpg, .jpeg and .png only
        dataset = create_dataset("", root=str(folder), search_split=False, input_key=suffixes)
    except RuntimeError as error:
        raise DataError(
            f"{folder} holds no images; it needs one folder of images for each class"
        ) from error
    return _indexed(folder.name, dataset.reader)


def _check_classes(folder: Path) -> None:
    """Raise `DataError` for a class folder without an image in it, beside others that have some."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    empty = [path.name for path in folders if not _has_image(path)]
    if empty and len(empty) < len(folders):
        raise DataError(
            f"{folder} has classes without images: {', '.join(empty[:5])}; add some, or remove the "
            "folders"
        )


def _has_image(folder: Path) -> bool:
    return any(
        Path(name).suffix.lower() in SUFFIXES
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def _subfolder(root: Path, given: str | None, usual: Sequence[str]) -> Path:
    names = usual if given is None else (given,)
    for name in names:
        if (root / name).is_dir():
            return root / name
    found = sorted(path.name for path in root.iterdir())
    listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "") if found else "nothing"
    raise DataError(
        f"the image folder {root} needs a folder {' or '.join(names[:2])}, with one folder of "
        f"images for each class inside; it holds {listed}"
    )


def _digits() -> tuple[Split, Split]:
    """The embedded data: 1,797 digits of 8x8 grey pixels; two thirds train, one third tests."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    parts = train_test_split(images, labels, test_size=1 / 3, stratify=labels, random_state=0)
    classes = [str(digit) for digit in range(10)]

    def split(name: str, images: Any, labels: Any) -> IndexedSplit:
        opened = [(Image.fromarray(image),) for image in images]
        return IndexedSplit(name, classes, labels.tolist(), _First(opened))

    return split("train", parts[0], parts[2]), split("test", parts[1], parts[3])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Hugging Face's progress bars and timm's log lines off the terminal inside."""
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from datasets import disable_progress_bars, enable_progress_bars, is_progress_bar_enabled
    except ImportError:  # only needed for hfds/
        bars = False
    else:
        bars = is_progress_bar_enabled()
        if bars:
            disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if bars:
            enable_progress_bars()
