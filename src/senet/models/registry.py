"""One door to the networks: a name in, a network with random weights out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from senet.errors import (
    ConfigError,
    MissingPackageError,
    UnknownNameError,
    unknown_name,
)
from senet.insertion import SEConfig, insert
from senet.insertion.surgery import attach
from senet.models.families import NETWORKS, Family, Network
from senet.models.libraries import LIBRARIES, installed, no_drop_path
from senet.models.nets.classifier import Classifier
from senet.models.origin import Origin, keep_origin

__all__ = ["NETWORKS", "create_model", "input_size", "list_models"]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    se: SEConfig | Mapping[str, Any] | None = None,
    layout: str | None = None,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """Build a network with random weights by its name.

    The project's networks are those of the paper, `NAME` plain and `se_NAME` with SE blocks, as the
    authors' files define them; docs/models.md lists them. Other libraries' come in train mode and
    as their library builds them, auxiliary heads included. Two things differ: torchvision's
    `inception_v3` and `googlenet` start from the initialisation of torch's layers, because their
    own takes most of a minute; and where `in_chans` is not 3, the first convolution of a
    torchvision network is replaced, since torchvision has no such option.

    Args:
        name: a network of this project (`resnet50`, `se_resnet50`, `senet154`, ...),
            `torchvision/NAME` or `timm/NAME`. A NAME alone is looked up in the project, then in
            torchvision, then in timm.
        num_classes: number of logits; 0 for the pooled features (not torchvision's networks). If
            not given, that of the data the network was made for: 10 for CIFAR's, else 1000.
        in_chans: channels of the image, at least 1.
        se: for the project's SE networks, what differs from the paper's blocks: fields of
            `senet.SEConfig`, such as {"reduction": 8, "bias": False}, over `SEConfig(init="paper")`
            and what the name says; or a whole `SEConfig`, which is taken as it is.
        layout: "authors" (the default) or "torchvision", for the residual networks: where
            torchvision and timm put strides and padding. The parameters are the same.
        drop_path_rate: stochastic depth, in [0, 1): how often the branch of the last residual block
            is left out in training, those before it ever less; timm's `drop_path_rate`,
            torchvision's `stochastic_depth_prob`. Evaluation and weights are the same.

    Raises:
        UnknownNameError: no registry holds the name, the layout or a field of `se`; the message
            lists near ones.
        ConfigError: a number that cannot be, or an option that this network does not have.
        MissingPackageError: the network is another library's, which is not installed.

    Example:
        >>> model = create_model("resnet20")
        >>> sum(parameter.numel() for parameter in model.parameters())
        269722
        >>> model = create_model("se_resnet20", se={"reduction": 4})
        >>> model.layer3[2].bn2.se.hidden
        16
    """
    library, bare = _resolve(name)
    smallest = 1 if library == "torchvision" else 0
    if num_classes is not None and num_classes < smallest:
        raise ConfigError(f"num_classes must be at least {smallest}, got {num_classes}")
    if in_chans < 1:
        raise ConfigError(f"in_chans must be at least 1, got {in_chans}")
    if library is not None and (se is not None or layout is not None):
        raise ConfigError(
            f"se and layout are options of the project's own networks, and {library}/{bare} is "
            "not one; build it without, and call senet.insert(model, example_input, config)"
        )
    if num_classes is None:
        num_classes = 1000 if library else NETWORKS[bare].family.num_classes
    if library is None:
        model = _build(bare, num_classes=num_classes, in_chans=in_chans, se=se, layout=layout)
        _set_drop_path(model, bare, drop_path_rate)
    else:
        options = {"num_classes": num_classes, "in_chans": in_chans}
        model = LIBRARIES[library].build(bare, **options, drop_path_rate=drop_path_rate)
    path = f"{library}/{bare}" if library else bare
    return keep_origin(model, Origin(path, num_classes, in_chans, _fields(se), layout))


def _build(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    se: SEConfig | Mapping[str, Any] | None,
    layout: str | None,
) -> nn.Module:
    """Build one of the project's networks."""
    network = NETWORKS[name]
    family = network.family
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    if layout is not None:
        if not family.layouts:
            raise ConfigError(f"{name} has one layout only, got layout={layout!r}; leave it out")
        if layout not in family.layouts:
            raise unknown_name("layout", layout, family.layouts)
        options["layout"] = layout
    config = _config(name, network, se)
    if config is None:
        return family.build(**options)
    anywhere = config.stages is None and config.include is None and config.exclude is None
    if family.written and config.integration == "standard" and anywhere:
        blocks = {"reduction": config.reduction, "hidden": config.hidden, **config.block_options()}
        return family.build(**options, se=blocks)
    return _grown(family, options, config)


def _set_drop_path(model: nn.Module, name: str, rate: float) -> None:
    if isinstance(model, Classifier):
        model.set_drop_path(rate)
    elif rate:
        raise no_drop_path(name)


def _grown(family: Family, options: dict[str, Any], config: SEConfig) -> nn.Module:
    """Build the plain network and insert the blocks; where, a twin without values has shown."""
    with torch.device("meta"):
        image = torch.zeros(1, options["in_chans"], *family.input_size[1:])
        sites = insert(family.build(**options), image, config).sites
    model = family.build(**options)
    attach(model, sites, dataclasses.replace(config, include=None, exclude=None))
    return model


def _config(
    name: str, network: Network, given: SEConfig | Mapping[str, Any] | None
) -> SEConfig | None:
    """Return which blocks a network gets: those that its name says, changed by what is given."""
    if network.se is None:
        if given is not None:
            raise ConfigError(
                f"{name} is the plain network and takes no se; "
                f"{', '.join(_with_se(network.plain))} are its SE forms"
            )
        return None
    if given is None or isinstance(given, Mapping):
        config = SEConfig.from_dict({"init": "paper", **network.se, **(given or {})})
    elif isinstance(given, SEConfig):
        config = given
    else:
        raise ConfigError(f"se must be a senet.SEConfig or a mapping of its fields, got {given!r}")
    for field, value in network.se.items():
        if getattr(config, field) != value:
            raise ConfigError(
                f"{name} has {field}={value!r} by its name, got {getattr(config, field)!r}; "
                f"choose another name: {', '.join(_with_se(network.plain))}"
            )
    return config


def _fields(se: SEConfig | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what `se` says, without its selectors: the sites are what was chosen."""
    if se is None:
        return None
    given = se.to_dict() if isinstance(se, SEConfig) else se
    return {field: value for field, value in given.items() if field not in ("include", "exclude")}


def _with_se(plain: str) -> list[str]:
    return [name for name, each in NETWORKS.items() if each.plain == plain and each.se is not None]


def list_models(pattern: str | None = None) -> list[str]:
    """List the names that `create_model` takes.

    Args:
        pattern: shell pattern such as `"*resnet50*"`, compared with the name with and without its
            library; without it, every name.

    Returns:
        The project's own names first, then `torchvision/NAME`, then `timm/NAME`. A library that is
        not installed has none.

    Raises:
        MissingPackageError: the pattern names a library that is not installed.

    Example:
        >>> list_models("resnet20"), list_models("torchvision/resnet1*")
        (['resnet20'], ['torchvision/resnet101', 'torchvision/resnet152', 'torchvision/resnet18'])
    """
    asked = (pattern or "").partition("/")[0]
    listed = [*NETWORKS]
    for prefix, library in LIBRARIES.items():
        if asked == prefix or installed(prefix):
            listed += [f"{prefix}/{name}" for name in library.names()]
    if pattern is None:
        return listed
    return [
        name
        for name in listed
        if fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)
    ]


def input_size(model: str | nn.Module) -> tuple[int, int, int]:
    """Return the image (channels, height, width) that a network is made for.

    Args:
        model: a name that `create_model` takes, or a network.

    Returns:
        For a name, the size of the published weights' images. For a network, the size it carries
        itself (the project's and timm's do) with the channels that its first convolution takes
        (if fewer than 16). Where nothing is known, (3, 224, 224).

    Raises:
        UnknownNameError: no registry holds the name; the message lists near ones.
        MissingPackageError: the network is another library's, which is not installed.

    Example:
        >>> input_size("resnet20"), input_size("torchvision/inception_v3")
        ((3, 32, 32), (3, 299, 299))
    """
    if isinstance(model, nn.Module):
        return _size_of_module(model)
    library, bare = _resolve(model)
    if library is None:
        return NETWORKS[bare].family.input_size
    return LIBRARIES[library].input_size(bare)


def _resolve(name: str) -> tuple[str | None, str]:
    """Return the library that holds a name (None: the project) and the name there."""
    if name in NETWORKS:
        return None, name
    prefix, slash, bare = name.partition("/")
    if prefix in LIBRARIES and slash:
        if LIBRARIES[prefix].has(bare):
            return prefix, bare
        raise _unknown(name)
    absent: MissingPackageError | None = None
    for library in () if slash else LIBRARIES:
        try:
            if LIBRARIES[library].has(name):
                return library, name
        except MissingPackageError as error:
            absent = error
    if absent is not None:
        raise MissingPackageError(
            f"{_unknown(name)} If it is another library's: {absent}", name=absent.name
        ) from absent
    raise _unknown(name)


def _unknown(name: str) -> UnknownNameError:
    """Return the error for a name; near names carry a library where the name does."""
    known = list_models()
    if "/" not in name:
        known = [listed.rpartition("/")[2] for listed in known]
    return unknown_name("model", name, known)


def _size_of_module(model: nn.Module) -> tuple[int, int, int]:
    described = getattr(model, "pretrained_cfg", None)  # timm's networks have one
    size = getattr(model, "input_size", None) or (described or {}).get("input_size")
    channels, height, width = size or (3, 224, 224)
    convs = (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)
    stem = next(convs, None)
    # A stem of 16 or more channels sees patches folded into channels, not the image.
    if stem is not None and stem.in_channels < 16:
        channels = stem.in_channels
    return channels, height, width
