"""Opening data by name: the embedded digits, folders, tars, and what timm's `create_dataset` opens.

What comes out is a `Split`, or a `Stream`, whatever is behind it. timm's own datasets step over
images that they cannot read; here such an image is an error with its name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from senet.errors import DataError, UnknownNameError, optional, unknown_name
from senet.training.config import DataConfig
from senet.training.data.dataset import Split, Stream, reason
from senet.training.data.folders import folder_split
from senet.training.data.image_files import opened_image
from senet.training.data.shards import find_shards, tar_split

__all__ = ["open_split", "open_splits", "register_data"]

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


_OWN: dict[str, tuple[Any, Any]] = {}  # name: training and test dataset


def register_data(name: str, train: Any, test: Any) -> None:
    """Give own datasets a name, by which every function of this process takes them as data.

    Args:
        name: that `DataConfig` then takes. It comes before folders and known data of this name.
        train: a map-style dataset, dataset[k] -> (PIL image, label): the labels are the class
            indices of `dataset.classes` if it has such names. Labels in `dataset.targets` spare
            reading every image once.
        test: likewise.

    Raises:
        DataError: a dataset that is none.

    Example:
        >>> pairs = [(Image.new("RGB", (8, 8)), label) for label in (0, 1)]
        >>> register_data("mine", pairs, pairs)
        >>> open_split(DataConfig("mine"), training=True).labels
        [0, 1]
    """
    for dataset in (train, test):
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise DataError(
                f"data {name} must be map-style datasets with a length, got a "
                f"{type(dataset).__name__}"
            )
    _OWN[name] = (train, test)


def open_splits(config: DataConfig) -> tuple[Split | Stream, Split | Stream]:
    """Open the training and the test split; see `open_split`."""
    return open_split(config, training=True), open_split(config, training=False)


def open_split(config: DataConfig, *, training: bool) -> Split | Stream:
    """Open one of the splits.

    Raises:
        DataError: a folder is missing, or something cannot be opened.
        MissingPackageError: a package that reads such data is missing.
        UnknownNameError: the name is neither a folder nor a known kind of data.
    """
    given = config.train_split if training else config.test_split
    usual = TRAIN_NAMES if training else TEST_NAMES
    names = usual if given is None else (given,)
    if config.name in _OWN:
        return _torchvision("train" if training else "test", _OWN[config.name][not training])
    if config.name == "digits":
        return _digits(training=training)
    name = _full_name(config)
    if not name:
        return folder_split(_split_folder(config, names))
    if name.startswith("tar/"):
        return tar_split(*find_shards(Path(name.removeprefix("tar/")), names))
    if name.startswith("torch/") and given is None:
        names = ("train" if training else "val",)  # timm's own names for the two
    with _quiet(), optional(f"data named {config.name}"):
        return _open_first(config, name, names)


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
    _check_shards(config, prefix, rest)
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
    unknown = unknown_name("data", config.name, KNOWN)
    raise UnknownNameError(f"{unknown}; there is no folder {config.name} either")


def _check_shards(config: DataConfig, prefix: str, rest: str) -> None:
    """Raise `DataError` if WebDataset's shards should be in a folder that is not there."""
    if prefix != "wds":
        return
    folder = config.root or (rest if rest and not re.search(r"://|[{:*]", rest) else None)
    if folder is not None and "://" not in folder and not Path(folder).expanduser().exists():
        raise DataError(f"the folder of {config.name} does not exist: {folder}")


def _open_first(config: DataConfig, name: str, splits: Sequence[str]) -> Split | Stream:
    """Open the first split that is there."""
    first: Exception | None = None
    for split in splits:
        try:
            return _open(config, name, split)
        except (DataError, ModuleNotFoundError):
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
    why = reason(first) if first else ""
    raise DataError(f"{config.name} has no readable split {tried}: {why}{hint}") from first


def _open(config: DataConfig, name: str, split: str) -> Split | Stream:
    from timm.data.dataset_factory import create_dataset

    prefix = name.partition("/")[0]
    options: dict[str, Any] = {"root": config.root, "split": split}
    if prefix == "torch":
        return _torchvision(split, create_dataset(name, download=config.download, **options))
    options |= {"input_key": config.image_key, "target_key": config.label_key}
    if prefix not in _STREAMS:
        return _hugging_face(split, create_dataset(name, **options).reader)

    def open_stream(seed: int | None) -> Any:
        return create_dataset(name, is_training=seed is not None, seed=seed or 0, **options)

    dataset = open_stream(None)
    return Stream(split, open_stream, len(dataset), _names(dataset.reader))


def _first(samples: Any, index: int) -> Any:
    return samples[index][0]


def _names(reader: Any) -> tuple[str, ...]:
    """Return the names of the classes of one of timm's readers, in the order of their indices."""
    pairs = (getattr(reader, "class_to_idx", None) or {}).items()
    return tuple(str(name) for name, _ in sorted(pairs, key=lambda pair: pair[1]))


def _hugging_face(split: str, reader: Any) -> Split:
    columns = reader.dataset.column_names
    first = reader.dataset[0] if len(reader.dataset) else dict.fromkeys(columns, "")
    for option, key in (("image_key", reader.image_key), ("label_key", reader.label_key)):
        if first.get(key) is None:  # timm adds the column that it looks for
            there = ", ".join(column for column in columns if first[column] is not None)
            raise DataError(
                f"{reader.split!r} has no column {key!r}, it has {there}; name it by {option}"
            )
    labels = list(reader.dataset[reader.label_key])
    return Split(split, _names(reader), labels, partial(_first, reader), reader.filename)


def _torchvision(split: str, dataset: Any) -> Split:
    if hasattr(dataset, "loader"):
        dataset.loader = opened_image
    names = [each if isinstance(each, str) else each[0] for each in getattr(dataset, "classes", ())]
    # ImageNet has two classes named crane: these are told apart by their index
    classes = [f"{n} ({k})" if names.count(n) > 1 else n for k, n in enumerate(names)]
    labels = getattr(dataset, "targets", None)
    if labels is None:
        labels = [dataset[index][1] for index in range(len(dataset))]
    return Split(split, classes, [int(label) for label in labels], partial(_first, dataset))


def _split_folder(config: DataConfig, names: Sequence[str]) -> Path:
    """Return the folder of a split: DIR/train with DIR/train/CLASS/*.jpg."""
    path = config.root if config.name == "folder" else config.name
    if path is None:
        raise DataError("the data 'folder' need the path of the image folder as their root")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"the image folder {root} does not exist")
    for name in names:
        if (root / name).is_dir():
            return root / name
    there = sorted(path.name for path in root.iterdir())
    listed = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "") if there else "nothing"
    raise DataError(
        f"the image folder {root} needs a folder {' or '.join(names[:2])}, with one folder of "
        f"images for each class inside; it holds {listed}"
    )


def _digits(*, training: bool) -> Split:
    """The embedded data: 1,797 digits of 8x8 grey pixels; two thirds train, one third tests."""
    with optional("the data digits"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    # images and labels, each in a part for training and one for the test
    parts = train_test_split(images, labels, test_size=1 / 3, stratify=labels, random_state=0)
    images, labels = (parts[0], parts[2]) if training else (parts[1], parts[3])
    opened = [Image.fromarray(image) for image in images]
    name = "train" if training else "test"
    return Split(name, list("0123456789"), labels.tolist(), opened.__getitem__)


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
