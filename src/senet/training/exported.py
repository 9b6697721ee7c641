"""Trained networks in files of other engines: what is kept beside the network, and their use."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from senet import __version__
from senet.cost.timing import Quartiles, interleave
from senet.deploy import ExportReport, Loaded, deploy, export, load_exported
from senet.deploy.engines import ENGINES
from senet.errors import ConfigError, DataError, InputError, first_line
from senet.insertion import se_modules
from senet.insertion.graft import grafts
from senet.insertion.guard import settle
from senet.models import NETWORKS
from senet.models.origin import origin_of
from senet.schema import Record
from senet.training.config import DataConfig
from senet.training.data import Crops, Unreadable, View, evenly, loaded_rows, open_split
from senet.training.trained import Trained, check_normalization, named_view

__all__ = ["Shipped", "export_network", "is_exported", "load_exported_network", "some_images"]

SCHEMA = "senet.export/1"
_RANDOM_IMAGES = 8
_REPEATS = 20


@final
@dataclass(frozen=True)
class Shipped(Record):
    """A trained network as a file.

    Attributes:
        report: what was written, and how it compares with PyTorch.
        plain_nodes: operators in the file if the network had no SE blocks; None where it has none,
            or where other modules would stand in their place.
        real_images: whether it was compared on given images, not on random ones.
        metadata: what is kept in the file beside the network.
        latency: milliseconds of one image in the engine, files in turn: with SE, without, and with
            each block as a module of its own; empty where there is no network without SE.
    """

    schema = SCHEMA

    report: ExportReport
    plain_nodes: int | None
    real_images: bool
    metadata: Mapping[str, Any]
    latency: Mapping[str, Quartiles]


def is_exported(name: str | os.PathLike[str]) -> bool:
    """Return whether a name ends as that of an exported file."""
    return Path(name).suffix in {engine.suffix for engine in ENGINES.values()}


def export_network(
    trained: Trained,
    path: Path,
    *,
    form: str = "fast",
    dynamic_size: bool = False,
    images: Tensor | None = None,
    int8: Tensor | None = None,
    int8_tool: str = "nncf",
    int8_blocks: str = "float",
    plain: bool = True,
) -> Shipped:
    """Write a trained network to a file, with its classes, its preprocessing and its SE blocks.

    Args:
        trained: the network; it is not touched.
        path: as in `senet.export`.
        form: of `senet.export`.
        dynamic_size: let the file take images of any size, beside any number of them.
        images: what the file is compared on, [N, C, H, W], as the network gets them; random ones if
            not given.
        int8: images that an int8 file is calibrated on, as the network gets them; float32 if not
            given.
        int8_tool: of `senet.export`.
        int8_blocks: of `senet.export`.
        plain: also count and time the same network without SE.

    Raises:
        ConfigError: int8 in a format that no tool quantises, or a form that the file cannot have.
        ExportError: the network cannot be exported, or the file computes something else.
        MissingPackageError: the engine is not installed.
        UnknownNameError: no such form, or no engine of this file ending.
    """
    metadata = _metadata(trained)
    size = metadata["image_size"]
    random = torch.randn(_RANDOM_IMAGES, *size, generator=torch.Generator().manual_seed(0))
    shown = random if images is None else images
    options: dict[str, Any] = {"form": form, "dynamic_size": dynamic_size}
    options |= {"int8": int8, "int8_tool": int8_tool, "int8_blocks": int8_blocks}
    report = export(trained.net, path, shown[:1], **options, images=shown, metadata=metadata)
    beside = _compared_with_plain(trained.net, path, shown[:1], options) if plain else None
    nodes, latency = (None, {}) if beside is None else beside
    return Shipped(report, nodes, images is not None, metadata, latency)


def _metadata(trained: Trained) -> dict[str, Any]:
    view = trained.view
    crop, _ = Crops().sizes(view)
    return {
        "schema": SCHEMA,
        "senet": __version__,
        "network": origin_of(trained.net).name,
        "classes": None if trained.classes is None else list(trained.classes),
        "image_size": [view.size[0], crop, crop],
        "mean": list(view.mean),
        "std": list(view.std),
        "crop": view.crop,
        "interpolation": view.interpolation,
        "se": _blocks(trained.net),
    }


def _blocks(net: nn.Module) -> dict[str, Any] | None:
    """Return the configuration of a network's SE blocks; None where it has none of this project."""
    settle(net)
    inserted, origin = grafts(net), origin_of(net)
    if inserted:
        return inserted[0].config.to_dict()
    if origin.se is not None or origin.name not in NETWORKS:
        return None if origin.se is None else dict(origin.se)
    named = NETWORKS[origin.name].se
    return None if named is None else {"init": "paper", **named}


def _without_blocks(net: nn.Module) -> nn.Module | None:
    """Return the network with gates that are constant, and so go away; None where some would stay.

    None as well for a network without blocks of this project.
    """
    plain = copy.deepcopy(net)
    blocks = se_modules(plain)
    for block in blocks.values():
        for parameter in block.fc2.parameters():
            nn.init.zeros_(parameter)
    return plain if blocks else None


def _compared_with_plain(
    net: nn.Module, path: Path, example: Tensor, options: Mapping[str, Any]
) -> tuple[int, dict[str, Quartiles]] | None:
    """Return the operators without SE, and milliseconds of one image, all files in turn."""
    plain = _without_blocks(net)
    done: Any = plain and deploy(plain, example).deployment
    if plain is None or len(done.constant) != len(se_modules(net)):
        return None
    files, form = {"SE": load_exported(path)}, options["form"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        export(plain, file, example, **options)
        files["without SE"] = load_exported(file)
        if form != "portable" and options["int8"] is None:
            export(net, file.with_stem("portable"), example, **{**options, "form": "portable"})
            files["SE as a module"] = load_exported(file.with_stem("portable"))
        tasks = {name: partial(each.run, example) for name, each in files.items()}
        timing = interleave(tasks, repeats=_REPEATS, warmup=2)
    return files["without SE"].nodes, {name: timing.of(name) for name in files}


def some_images(
    trained: Trained, data: DataConfig, count: int, *, training: bool = False
) -> Tensor:
    """Return images of a split, evenly spread over it, as a network is tested with [N, C, H, W].

    Args:
        trained: the network.
        data: which data; up to `max_bad_images` that cannot be read are left out.
        count: how many; all where there are fewer.
        training: take the training split, not the test split.

    Raises:
        ConfigError: `count` is below 1.
        DataError: missing data, or too many images that cannot be read.
    """
    if count < 1:
        raise ConfigError(f"images must be a whole number of at least 1, got {count}")
    split = open_split(data, training=training)
    split = replace(split, transform=Crops().transform(trained.view))
    chosen = [[k] for k in evenly(len(split), count)]
    unreadable, images = Unreadable(data.max_bad_images), []
    for (row,) in loaded_rows(split, chosen, workers=0):
        if isinstance(row, str):
            unreadable.add(row)
        else:
            images.append(row[0][0])
    if not images:
        raise DataError(f"no image of the {split.name} split can be read")
    return torch.cat(images)


@final
class _InEngine(nn.Module):
    """An exported file as a module: images [N, C, H, W] to logits [N, K]."""

    def __init__(self, path: Path, loaded: Loaded) -> None:
        super().__init__()
        self.path, self.loaded = path, loaded

    def forward(self, images: Tensor) -> Tensor:
        try:
            given = torch.split(images.cpu().contiguous(), self.loaded.batch or len(images))
            first = torch.cat([self.loaded.run(each)[0] for each in given])
        except Exception as error:  # engines raise anything
            shape = "x".join(map(str, images.shape[1:]))
            raise InputError(
                f"{self.path} does not take {len(images)} images of {shape}: {first_line(error)}; "
                "export it with --dynamic-size for images of any size"
            ) from error
        return first.to(images.device)


def load_exported_network(
    path: str | os.PathLike[str],
    *,
    normalization: str | None = None,
    image_size: int | None = None,
) -> Trained:
    """Return the network of an exported file, to be used as that which it was made from.

    Args:
        path: a file of `senet.export`.
        normalization: "imagenet" or "imagenet-mean"; what is kept in the file if not given.
        image_size: height and width, for a file that does not say.

    Raises:
        DataError: there is no such file, it cannot be read, or it says nothing of its images.
        MissingPackageError: its engine is not installed.
    """
    check_normalization(normalization)
    loaded = load_exported(Path(path))
    kept = loaded.metadata
    try:
        channels, height, width = kept["image_size"]
        view = View(
            (channels, height, width),
            tuple(kept["mean"]),
            tuple(kept["std"]),
            crop=kept["crop"],
            interpolation=kept["interpolation"],
        )
    except (KeyError, TypeError, ValueError) as error:
        if normalization is None or image_size is None:
            raise DataError(
                f"{path} does not say what images it expects, as files of `senet export` do; say "
                "it by --normalization and --crop"
            ) from error
        view = named_view(normalization, (3, image_size, image_size))
    else:
        if normalization is not None:
            view = named_view(normalization, view.size)
    classes = kept.get("classes")
    names = None if classes is None else tuple(map(str, classes))
    return Trained(str(path), _InEngine(Path(path), loaded).eval(), view, names)
