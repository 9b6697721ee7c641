"""The networks of timm and of torchvision, by the names that these have for them.

The packages are imported where they are used; one that is not installed is a
`MissingPackageError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, final

import torch
from torch import nn

from senet.errors import ConfigError, MissingPackageError, optional
from senet.models.nets.classifier import check_drop_path

__all__ = ["LIBRARIES", "OURS", "Library", "build_timm", "installed", "no_drop_path"]

# The module under which `register_with_timm` registers the project's networks.
OURS = "senet_networks"

# Their default initialisation draws truncated normals one by one, which takes up to half a minute,
# and warns that it will go; these are built with the initialisation of torch's own layers.
_SLOW_INIT = ("googlenet", "inception_v3")


@final
class Library(NamedTuple):
    """What is asked of another library.

    Attributes:
        names: its networks, sorted, without the tags of weights.
        has: whether it has a network of this name; a tag may follow.
        build: from a name, `num_classes`, `in_chans` and `drop_path_rate`, with random weights.
        input_size: the image (channels, height, width) that published weights were evaluated with.
    """

    names: Callable[[], tuple[str, ...]]
    has: Callable[[str], bool]
    build: Callable[..., nn.Module]
    input_size: Callable[[str], tuple[int, int, int]]


def installed(library: str) -> bool:
    """Return whether a library of `LIBRARIES` is there."""
    try:
        LIBRARIES[library].names()
    except MissingPackageError:
        return False
    return True


def no_drop_path(name: str) -> ConfigError:
    """Return the error for a network that has no stochastic depth."""
    return ConfigError(
        f"{name} has no branch that drop_path_rate could leave out; leave drop_path_rate out, or "
        "take another network, as a ResNet"
    )


def _dropping(name: str, build: Callable[..., nn.Module], option: str, rate: float) -> nn.Module:
    """Build a network with stochastic depth by its library's option, which some pass over."""
    check_drop_path(rate)
    if not rate:
        return build()
    try:
        model = build(**{option: rate})
    except TypeError as error:  # its constructor has no such argument
        raise no_drop_path(name) from error
    rates = [
        getattr(module, "drop_prob", None) or getattr(module, "p", None)
        for module in model.modules()
        if type(module).__name__ in ("DropPath", "StochasticDepth")
    ]
    if not any(rates):
        raise no_drop_path(name)
    return model


# ---- timm


@cache
def _timm_names() -> tuple[str, ...]:
    """Return timm's names without the project's, which `register_with_timm` may have added."""
    with optional("a network named timm/..."):
        import timm

    return tuple(sorted({*timm.list_models()} - {*timm.list_models(module=OURS)}))


@cache
def _timm_tagged() -> frozenset[str]:
    import timm

    return frozenset(timm.list_models(pretrained=True))


def build_timm(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """Build a network of timm with random weights; see `senet.create_model`."""
    with optional(f"the network {name}, which is timm's,"):
        import timm

    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    build = partial(timm.create_model, name, pretrained=False, drop_rate=drop_rate, **options)
    return _dropping(f"timm/{name}", build, "drop_path_rate", drop_path_rate)


def _timm_input_size(name: str) -> tuple[int, int, int]:
    import timm

    config = timm.get_pretrained_cfg(name)
    return (3, 224, 224) if config is None else config.input_size


# ---- torchvision


@cache
def _torchvision_names() -> tuple[str, ...]:
    """Return its networks for classification, segmentation and detection."""
    with optional("a network named torchvision/..."):
        from torchvision import models

    rooms = (models, models.segmentation, models.detection)
    return tuple(sorted(name for room in rooms for name in models.list_models(module=room)))


def _build_torchvision(
    name: str, *, num_classes: int, in_chans: int, drop_path_rate: float = 0.0
) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name not in models.list_models(module=models):
        options["weights_backbone"] = None  # the default would download weights
    if name in _SLOW_INIT:
        options["init_weights"] = False
    if in_chans != 3 and name in models.list_models(module=models.detection):
        raise ConfigError(
            f"torchvision/{name} normalises images of 3 channels inside, "
            f"got in_chans={in_chans}; leave in_chans at 3"
        )
    build = partial(models.get_model, name, **options)
    model = _dropping(f"torchvision/{name}", build, "stochastic_depth_prob", drop_path_rate)
    if in_chans != 3:
        _change_stem(model, name, in_chans=in_chans)
    return model


def _torchvision_input_size(name: str) -> tuple[int, int, int]:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    crop = getattr(weights.transforms(), "crop_size", [224])
    return (3, int(crop[0]), int(crop[-1]))


def _change_stem(model: nn.Module, name: str, *, in_chans: int) -> None:
    """Give the first convolution `in_chans` inputs, with weights of the scale that fits them."""
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if stem is None or stem.in_channels != 3 or stem.groups != 1:
        raise ConfigError(
            f"torchvision/{name} must begin with a convolution of 3 channels to be given "
            f"in_chans={in_chans}, and begins with {stem}; leave in_chans at 3"
        )
    old = stem.weight.detach()
    new = torch.randn(old.shape[0], in_chans, *old.shape[2:], device=old.device, dtype=old.dtype)
    stem.in_channels = in_chans
    stem.weight = nn.Parameter(new * old.std() * math.sqrt(3 / in_chans))


# In the order in which a name without a library is looked up.
LIBRARIES: dict[str, Library] = {
    "torchvision": Library(
        names=_torchvision_names,
        has=lambda name: name in _torchvision_names(),
        build=_build_torchvision,
        input_size=_torchvision_input_size,
    ),
    "timm": Library(
        names=_timm_names,
        has=lambda name: name in _timm_names() or name in _timm_tagged(),
        build=build_timm,
        input_size=_timm_input_size,
    ),
}
