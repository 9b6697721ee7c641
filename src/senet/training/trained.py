"""Networks that are ready to be used: what this project writes, or names with weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import nn

from senet.errors import ConfigError, DataError, InputError
from senet.insertion.facts import facts_of
from senet.models import create_model, from_pretrained, input_size
from senet.models.description import check_name
from senet.models.hub import network_of
from senet.models.origin import origin_of
from senet.models.weights import preprocessing
from senet.models.weights.hubs import read_source
from senet.models.weights.load import load_source
from senet.models.weights.matching import HEAD_CURE
from senet.training.config import DataConfig
from senet.training.data import MAX_MEMORY_SIZE, View, imagenet_view
from senet.training.loop.checkpoints import kept_checkpoint, weights_of

__all__ = [
    "Trained",
    "check_normalization",
    "load_published_network",
    "load_run",
    "load_written",
    "named_view",
]

_WEIGHTS = (".ckpt", ".safetensors", ".pth", ".pt")


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
    """Return the network of a run, finished or not, as its last or best checkpoint has it.

    A run of `senet train`, or an arm of `senet compare` or `ablate`. The checkpoint says all that
    is needed, so the folder may have been moved, and the run killed. Where averaged weights were
    kept, it is those.

    Raises:
        DataError: the folder holds no run that can be read.
    """
    path = kept_checkpoint(Path(folder))
    if path is None:
        if arms := sorted(each for each in Path(folder).glob("runs/*") if each.is_dir()):
            raise DataError(f"{folder} holds runs of several networks; give one, as {arms[0]}")
        raise DataError(
            f"{folder} holds no run of senet train that can be read: it has no checkpoint; a run "
            "has one after its first epoch"
        )
    return load_written(path, name=str(folder))


def load_written(
    source: str | os.PathLike[str], *, name: str | None = None, normalization: str | None = None
) -> Trained:
    """Return the network of whatever this project writes.

    Args:
        source: the folder of a run or of an arm of a comparison, a checkpoint, a folder of
            `senet.save` or `senet.save_pretrained`, a repository of the Hub, or a file of
            `senet convert`.
        name: what results call it; the source if not given.
        normalization: "imagenet" or "imagenet-mean" (see `NORMALIZATIONS`), for a network that was
            saved before it knew its images.

    Raises:
        ConfigError: `normalization` is given for a network that records its own.
        DataError: there is nothing of the kind, or it does not say which network it is or what
            images it expects.
    """
    check_normalization(normalization)
    path, called = Path(source), name or str(source)
    if path.is_dir() and not (path / "model.safetensors").is_file():
        if normalization is not None:
            raise ConfigError(
                f"normalization must be left out for {source}, a run that records its own, got "
                f"{normalization!r}"
            )
        return load_run(path)
    if not path.exists() and (path.suffix in _WEIGHTS or str(source).count("/") != 1):
        raise DataError(f"{source} holds no run of senet train that can be read: it does not exist")
    data = None
    if path.is_file():
        read = read_source(path)
        if "network" not in read.facts:
            raise DataError(
                f"{source} does not say which network it is of; name it with --model, and give the "
                "file with --weights"
            )
        net, data = network_of(read), read.facts.get("data")
    else:
        net = from_pretrained(str(source))
    if normalization is not None and "preprocessing" in facts_of(net):
        raise ConfigError(
            f"normalization must be left out for {source}, a network that records its own, got "
            f"{normalization!r}"
        )
    return _ready(called, net, str(source), normalization, data)


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
        weights: that `senet.load_weights` takes. A file that says which network it is of is built
            as it says.
        num_classes: number of logits; 10 for networks made for 32 px, else 1000, if not given.
        normalization: "imagenet" or "imagenet-mean" (see `NORMALIZATIONS`), at the size that the
            network is made for; what the weights expect if not given.

    Raises:
        DataError: the weights do not say what images they expect, or say that they are of another
            network.
        SenetError: no such network or weights, or they do not fit.
    """
    check_normalization(normalization)
    read = read_source(weights_of(weights))
    if "network" in read.facts:
        check_name(read.facts, name, weights)
        logits = read.facts["network"]["num_classes"]
        if num_classes not in (None, logits):
            raise DataError(f"{weights} is of {logits} classes, --classes was {num_classes}")
        net = network_of(read)
        return _ready(name, net, weights, normalization, read.facts.get("data"))
    usual = 10 if max(input_size(name)[1:]) <= 32 else 1000
    net = create_model(name, num_classes=num_classes or usual)
    try:
        load_source(net, read)
    except DataError as error:
        raise DataError(_misfit(str(error), usual, num_classes)) from error
    return _ready(name, net, weights, normalization)


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
    name: str,
    net: nn.Module,
    source: str,
    normalization: str | None,
    data: Mapping[str, Any] | None = None,
) -> Trained:
    """Return a network with the preprocessing that its weights expect, and its classes."""
    names = facts_of(net).get("classes")
    classes = None if names is None else tuple(map(str, names))
    config = None if data is None else DataConfig.from_dict(data)
    if normalization is not None:
        view = named_view(normalization, input_size(origin_of(net).name))
        return Trained(name, net.eval(), view, classes, config)
    try:
        view = View.of(preprocessing(net))
    except InputError as error:
        raise DataError(
            f"{source} does not say what images it expects; say it by --normalization imagenet, or "
            "imagenet-mean where values of 0..255 were not divided by a standard deviation"
        ) from error
    return Trained(name, net.eval(), view, classes, config)
