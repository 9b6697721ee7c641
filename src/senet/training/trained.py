"""Networks that are ready to be used: of a run on the disk, or by name with published weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import nn

from senet.errors import ConfigError, DataError, InputError
from senet.models import create_model, from_pretrained, input_size
from senet.models.origin import origin_of
from senet.models.weights import load_weights as load_published
from senet.models.weights import preprocessing
from senet.models.weights.matching import HEAD_CURE
from senet.training.building import build_network
from senet.training.config import DataConfig, RunConfig
from senet.training.data import MAX_MEMORY_SIZE, View, imagenet_view
from senet.training.loop.checkpoints import load_weights

__all__ = [
    "Trained",
    "check_normalization",
    "load_folder",
    "load_published_network",
    "load_run",
    "named_view",
]


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """A network with what is needed to use it.

    Attributes:
        name: of the run or the network.
        net: with its weights, in test mode.
        view: how images reach it; `view.crop` is the share of the scaled shorter side.
        classes: names of the classes; None where nobody said.
        data: what it was trained on; None where nobody said.
    """

    name: str
    net: nn.Module
    view: View
    classes: tuple[str, ...] | None = None
    data: DataConfig | None = None


def load_run(folder: str | os.PathLike[str]) -> Trained:
    """Return the network of a run of `senet train`, or of `senet compare`, with its last weights.

    Where averaged weights were kept, it is those.

    Raises:
        DataError: the folder holds no run that can be read.
    """
    path = Path(folder) / "run.json"
    try:
        result: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        data = result["data"]
        config, classes = RunConfig.from_dict(result["config"]), tuple(data["classes"])
        channels, height, width = data["image_size"]
        mean, std = tuple(data["view"]["mean"]), tuple(data["view"]["std"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no run of senet train that can be read: run.json gives "
            f"{type(error).__name__}; a run has it once it is finished or was stopped"
        ) from error
    size = (channels, height, width)
    side = config.data.test_size or height
    # small images are scaled to their size, whole
    crop = 1.0 if max(height, width) <= MAX_MEMORY_SIZE else config.data.crop
    without = RunConfig(config.model, None, config.se, config.data, config.train)
    inserted = bool(result.get("always_insert"))
    net = build_network(without, num_classes=len(classes), size=size, always_insert=inserted)
    return Trained(
        name=str(folder),
        net=load_weights(net, Path(folder)).eval(),
        view=View(size, mean, std, (side, side), crop),
        classes=classes,
        data=config.data,
    )


def load_published_network(
    name: str,
    weights: str,
    *,
    num_classes: int | None = None,
    normalization: str | None = None,
) -> Trained:
    """Return a network by its name with published weights, and the preprocessing they expect.

    Args:
        name: that `senet.create_model` takes.
        weights: that `senet.load_weights` takes.
        num_classes: number of logits; 10 for networks made for 32 px, else 1000, if not given.
        normalization: "imagenet" or "imagenet-mean" (see `NORMALIZATIONS`), at the size that the
            network is made for; what the weights expect if not given.

    Raises:
        DataError: the weights do not say what images they expect.
        SenetError: no such network or weights, or they do not fit.
    """
    check_normalization(normalization)
    size = input_size(name)
    usual = 10 if max(size[1:]) <= 32 else 1000
    net = create_model(name, num_classes=num_classes or usual)
    try:
        load_published(net, weights)
    except DataError as error:
        raise DataError(_misfit(str(error), usual, num_classes) + _hint_of_run(weights)) from error
    return _ready(name, net, size, weights, normalization)


def _misfit(error: str, usual: int, given: int | None) -> str:
    """Return what is said of weights that do not fit; a head that is left out scores no class."""
    text = error.removesuffix(f"; {HEAD_CURE}")
    if given is None:
        return (
            f"{text}; if it is the last layer that differs: {usual} classes were assumed, other "
            "numbers are given by --classes"
        )
    if text == error:
        return error
    return f"{text}; --classes was {given}: give the number of classes of the weights"


def _hint_of_run(weights: str) -> str:
    """Return the end of a message about weights that are a checkpoint of a run."""
    folder = Path(weights).parent
    if Path(weights).suffix != ".ckpt" or not (folder / "config.yaml").is_file():
        return ""
    return (
        "; it is a checkpoint of a run, which says everything itself: senet predict --run "
        f"{folder}, senet eval {folder}"
    )


def load_folder(folder: str | os.PathLike[str], *, normalization: str | None = None) -> Trained:
    """Return the network of a run, or one that `senet.save_pretrained` wrote to a folder.

    Args:
        folder: of `senet train`, or of `senet.save_pretrained`.
        normalization: as in `load_published_network`, for a network that was saved.

    Raises:
        ConfigError: `normalization` is given for a run, which says it itself.
        DataError: the folder holds neither, or does not say what images its network expects.
    """
    saved = (Path(folder) / "config.json").is_file() and not (Path(folder) / "run.json").exists()
    if not saved:
        if normalization is not None:
            raise ConfigError(f"normalization is said by a run itself, as {folder} is")
        return load_run(folder)
    check_normalization(normalization)
    net = from_pretrained(folder)
    return _ready(str(folder), net, input_size(origin_of(net).name), str(folder), normalization)


def check_normalization(normalization: str | None) -> None:
    """Raise `ConfigError` unless it is None or a name of what published weights expect."""
    if normalization not in (None, "imagenet", "imagenet-mean"):
        raise ConfigError(
            "normalization of published weights must be 'imagenet' or 'imagenet-mean', got "
            f"{normalization!r}"
        )


def named_view(normalization: str, size: tuple[int, int, int]) -> View:
    """Return how images of (C, H, W) reach a network with "imagenet" or "imagenet-mean"."""
    # as in training: small images are scaled to their size, whole
    crop = 1.0 if max(size[1:]) <= MAX_MEMORY_SIZE else DataConfig.crop
    return imagenet_view(size, divided=normalization == "imagenet", crop=crop)


def _ready(
    name: str, net: nn.Module, size: tuple[int, int, int], source: str, normalization: str | None
) -> Trained:
    """Return a network with the preprocessing that its weights expect."""
    if normalization is not None:
        return Trained(name, net.eval(), named_view(normalization, size))
    try:
        wanted = preprocessing(net)
    except InputError as error:
        raise DataError(
            f"{source} does not say what images it expects; say it by --normalization imagenet, or "
            "imagenet-mean where values of 0..255 were not divided by a standard deviation"
            f"{_hint_of_run(source)}"
        ) from error
    square = (len(wanted.mean), wanted.crop, wanted.crop)
    share = min(1.0, wanted.crop / (wanted.resize or wanted.crop))
    view = View(square, wanted.mean, wanted.std, None, share, wanted.interpolation)
    return Trained(name, net.eval(), view)
