"""Published weights as a safetensors file with this project's names."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import torch
from torch import nn

from senet.errors import ConfigError, DataError
from senet.insertion.saving import write_tensors
from senet.models.description import check_name, described, rebuilt
from senet.models.origin import origin_of
from senet.models.registry import NETWORKS, create_model
from senet.models.weights.hubs import read_source
from senet.models.weights.matching import Match, match
from senet.models.weights.source import FORMAT, Source
from senet.models.weights.strides import check_layout

__all__ = ["convert_weights"]

_HEAD = re.compile(r"(^|\.)(fc|last_linear|linear|classifier|head\.fc)\.weight")
_SE = re.compile(r"\.se(_module|_layer)?\.")


def convert_weights(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str | None = None,
    sha256: str | None = None,
    ema: bool = True,
) -> str:
    """Write published weights as a safetensors file with the names of this project.

    The file is written whole or not at all. `senet.load_weights` reads it, and so does
    `load_state_dict` after `safetensors.torch.load_file`. Its metadata say where it comes from, the
    network with its SE blocks, the layout, the classes and the images: `senet.from_pretrained`
    builds the network from the file alone.

    Args:
        source: what `senet.load_weights` takes.
        out: the file to write, `*.safetensors`.
        model: the network, by a name of this project; by default the one that the source says, or
            else the one whose tensors these are.
        sha256: as in `senet.load_weights`.
        ema: as in `senet.load_weights`.

    Returns:
        The name of the network.

    Raises:
        DataError: as in `senet.load_weights`; or the tensors are of no network of this project, or
            of another one than `model`.
        ConfigError: `out` is no `*.safetensors`, or `model` is another library's.
    """
    target = Path(out)
    if target.suffix != ".safetensors":
        raise ConfigError(f"the file to write must be called *.safetensors, got {target.name!r}")
    if model is not None and model not in NETWORKS:
        raise ConfigError(
            f"model must be a network of this project, got {model!r}; senet models lists them"
        )
    read = read_source(source, sha256=sha256, ema=ema)
    if "network" in read.facts:
        network = rebuilt(read.facts, read.name)
        if model is not None:
            check_name(read.facts, model, read.name)
    else:
        network = _recognised(read) if model is None else _empty(model, read)
    matched = _fit(network, read)
    facts = {
        **{name: value for name, value in described(network).items() if name != "head"},
        "format": FORMAT,
        "model": origin_of(network).name,
        "classes": read.facts.get("classes"),
        "layout": read.layout,
        "preprocessing": read.preprocessing and read.preprocessing.to_dict(),
        # of a file its name alone: the folders are the affair of the machine it was read on
        "source": Path(read.name).name if Path(read.name).exists() else read.name,
        "sha256": read.sha256,
    }
    weights = {key: tensor.contiguous() for key, tensor in matched.tensors.items()}
    metadata = {"format": "pt", "senet": json.dumps(facts)}
    write_tensors(target, weights, metadata)
    return origin_of(network).name


def _fit(network: nn.Module, source: Source) -> Match:
    """Match a source with a network."""
    check_layout(network, source)
    matched = match(network, source)
    if matched.absent_se:
        name = origin_of(network).name
        raise DataError(
            f"{source.name} must have the SE blocks of {name}, but has none; convert it as "
            f"{NETWORKS[name].plain}, and load that into {name}"
        )
    return matched


def _empty(name: str, source: Source) -> nn.Module:
    """Return the network of a name, without memory."""
    layouts = NETWORKS[name].family.layouts
    layout = source.layout if source.layout in layouts else None
    with torch.device("meta"):
        return create_model(name, num_classes=_classes(source), layout=layout)


def _classes(source: Source) -> int | None:
    """Return the number of classes of the last layer, if it has a usual name."""
    heads = (tensor for name, tensor in source.state.items() if _HEAD.search(name))
    return next((len(tensor) for tensor in heads if tensor.dim() == 2), None)


def _recognised(source: Source) -> nn.Module:
    """Return the network whose tensors these are, among those with the paper's own SE blocks."""
    with_se = any(_SE.search(name) for name in source.state)
    for name, network in NETWORKS.items():
        wanted = network.family.se if with_se else None
        if not network.family.written or network.se != wanted:
            continue
        try:
            empty = _empty(name, source)
            _fit(empty, source)
        except DataError:
            continue
        return empty
    raise DataError(
        f"{source.name} must be of a network of this project, and its {len(source.state)} tensors "
        "are of none; name the network with model=..., to see what differs"
    )
