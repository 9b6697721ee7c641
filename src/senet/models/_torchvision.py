"""torchvision's networks, by torchvision's names. The package is imported where it is used."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import nn

from senet.errors import ConfigError

# Their default initialisation draws truncated normals one by one, which takes up to half a minute,
# and warns that it will go; these build with the initialisation of torch's own layers.
_SLOW_INIT = ("googlenet", "inception_v3")


@cache
def names() -> tuple[str, ...]:
    """Return the names of the networks for classification, segmentation and detection, sorted."""
    from torchvision import models

    rooms = (models, models.segmentation, models.detection)
    return tuple(sorted(name for room in rooms for name in models.list_models(module=room)))


def has(name: str) -> bool:
    """Return whether torchvision registers a network of this name."""
    return name in names()


def build(name: str, *, num_classes: int, in_chans: int) -> nn.Module:
    """Build a registered network with random weights; see `create_model`."""
    from torchvision import models

    options: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name not in models.list_models(module=models):
        options["weights_backbone"] = None  # the default would download weights
    if name in _SLOW_INIT:
        options["init_weights"] = False
    if in_chans != 3 and name in models.list_models(module=models.detection):
        raise ConfigError(
            f"torchvision/{name} normalises pictures of 3 channels inside, "
            f"got in_chans={in_chans}; leave in_chans at 3"
        )
    model: nn.Module = models.get_model(name, **options)
    if in_chans != 3:
        _replace_stem(model, name, in_chans=in_chans)
    return model


def input_size(name: str) -> tuple[int, int, int]:
    """Return the picture (C, H, W) of the published weights' evaluation, or else 224 pixels."""
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    crop = getattr(weights.transforms(), "crop_size", [224])
    return (3, int(crop[0]), int(crop[-1]))


def _replace_stem(model: nn.Module, name: str, *, in_chans: int) -> None:
    """Give the first convolution `in_chans` inputs, with weights of the scale that fits them."""
    convs = ((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d))
    path, old = next(convs, (None, None))
    if path is None or old is None or old.in_channels != 3 or old.groups != 1:
        raise ConfigError(
            f"torchvision/{name} must begin with a convolution of 3 channels to be given "
            f"in_chans={in_chans}, and begins with {old}; leave in_chans at 3"
        )
    new = nn.Conv2d(
        in_chans,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type] # declared as a tuple of any length
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        scale = old.weight.std() * math.sqrt(3 / in_chans)
        new.weight.copy_(torch.randn_like(new.weight) * scale)
    if old.bias is not None:
        new.bias = old.bias
    model.set_submodule(path, new)
