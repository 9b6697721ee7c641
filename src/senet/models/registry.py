"""One door to the networks: a name in, a network with random weights out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from torch import nn

from senet.errors import ConfigError, UnknownNameError, unknown_name
from senet.models import _timm, _torchvision
from senet.models.cifar import CifarResNet

__all__ = ["create_model", "input_size", "list_models"]


@dataclass(frozen=True)
class _Library:
    names: Callable[[], tuple[str, ...]]
    has: Callable[[str], bool]
    build: Callable[..., nn.Module]
    input_size: Callable[[str], tuple[int, int, int]]


# The project's own networks: the builder takes num_classes and in_chans.
_OWN: dict[str, Callable[..., nn.Module]] = {
    "resnet20": partial(CifarResNet, depth=20),
    "resnet32": partial(CifarResNet, depth=32),
    "resnet44": partial(CifarResNet, depth=44),
    "resnet56": partial(CifarResNet, depth=56),
    "resnet110": partial(CifarResNet, depth=110),
}

# In the order in which a name without a library is looked up.
_LIBRARIES: dict[str, _Library] = {
    "torchvision": _Library(
        _torchvision.names, _torchvision.has, _torchvision.build, _torchvision.input_size
    ),
    "timm": _Library(_timm.names, _timm.has, _timm.build, _timm.input_size),
}


def create_model(name: str, *, num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
    """Build a network with random weights by its name.

    The network comes in train mode and as its library builds it, auxiliary heads included. Two
    things differ: torchvision's `inception_v3` and `googlenet` start from the initialisation of
    torch's layers, because their own takes most of a minute; and where `in_chans` is not 3, the
    first convolution of a torchvision network is replaced, since torchvision has no such option.

    Args:
        name: a network of this project (`resnet20`, `resnet32`, `resnet44`, `resnet56`,
            `resnet110`: the paper's for CIFAR), `torchvision/NAME` or `timm/NAME`. A NAME alone is
            looked up in the project, then in torchvision, then in timm.
        num_classes: number of logits, at least 1.
        in_chans: channels of the picture, at least 1.

    Raises:
        UnknownNameError: no registry holds the name; the message lists near ones.
        ConfigError: a number is below 1, or the network cannot take `in_chans` channels.

    Example:
        >>> model = create_model("resnet20", num_classes=10)
        >>> sum(parameter.numel() for parameter in model.parameters())
        269722
    """
    for option, value in (("num_classes", num_classes), ("in_chans", in_chans)):
        if value < 1:
            raise ConfigError(f"{option} must be at least 1, got {value}")
    library, bare = _resolve(name)
    build = _OWN[bare] if library is None else partial(_LIBRARIES[library].build, bare)
    return build(num_classes=num_classes, in_chans=in_chans)


def list_models(pattern: str | None = None) -> list[str]:
    """List the names that `create_model` takes.

    Args:
        pattern: shell pattern such as `"*resnet50*"`, compared with the name with and without its
            library; without it, every name.

    Returns:
        The project's own names first, then `torchvision/NAME`, then `timm/NAME`.

    Example:
        >>> list_models("resnet20"), list_models("torchvision/resnet1*")
        (['resnet20'], ['torchvision/resnet101', 'torchvision/resnet152', 'torchvision/resnet18'])
    """
    listed = [*_OWN]
    for prefix, library in _LIBRARIES.items():
        listed += [f"{prefix}/{name}" for name in library.names()]
    if pattern is None:
        return listed
    return [
        name
        for name in listed
        if fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)
    ]


def input_size(model: str | nn.Module) -> tuple[int, int, int]:
    """Return the picture (channels, height, width) that a network is made for.

    Args:
        model: a name that `create_model` takes, or a network.

    Returns:
        For a name, the size of the published weights' pictures. For a network, the size it carries
        itself (the project's and timm's do) with the channels that its first convolution takes
            (if fewer than 16).
        Where nothing is known, (3, 224, 224).

    Raises:
        UnknownNameError: no registry holds the name; the message lists near ones.

    Example:
        >>> input_size("resnet20"), input_size("torchvision/inception_v3")
        ((3, 32, 32), (3, 299, 299))
    """
    if isinstance(model, nn.Module):
        return _size_of_module(model)
    library, bare = _resolve(model)
    if library is None:
        return CifarResNet.input_size
    return _LIBRARIES[library].input_size(bare)


def _resolve(name: str) -> tuple[str | None, str]:
    """Return the library that holds a name (None: the project) and the name there."""
    if name in _OWN:
        return None, name
    prefix, slash, bare = name.partition("/")
    if not slash:
        for prefix, library in _LIBRARIES.items():
            if library.has(name):
                return prefix, name
    elif prefix in _LIBRARIES and _LIBRARIES[prefix].has(bare):
        return prefix, bare
    raise _unknown(name)


def _unknown(name: str) -> UnknownNameError:
    """Return the error for a name; near names carry a library where the name does."""
    known = list_models()
    if "/" not in name:
        known = [listed.rpartition("/")[2] for listed in known]
    return unknown_name("model", name, known)


def _size_of_module(model: nn.Module) -> tuple[int, int, int]:
    if isinstance(model, CifarResNet):
        return model.input_size
    described = getattr(model, "pretrained_cfg", None)  # timm's networks have one
    channels, height, width = (described or {}).get("input_size", (3, 224, 224))
    convs = (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)
    stem = next(convs, None)
    # A stem of 16 or more channels sees patches folded into channels, not the picture.
    if stem is not None and stem.in_channels < 16:
        channels = stem.in_channels
    return channels, height, width
