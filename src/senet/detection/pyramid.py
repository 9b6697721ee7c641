"""What feeds a detector: a backbone's maps, whose early stages may be frozen, and their neck."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from senet.errors import ConfigError
from senet.padding import Padding, set_padding

__all__ = ["Pyramid", "SingleMap", "freeze_stages", "mask_padding_in", "split_at"]


@final
class Pyramid(nn.Module):
    """A feature pyramid on the maps of a backbone.

    Args:
        body: maps an image to a list of maps, finest first.
        chosen: which of the maps are taken.
        channels: of those.
        out_channels: of each level of the pyramid.
        extra: adds coarser levels, of torchvision's.
    """

    def __init__(
        self,
        body: nn.Module,
        chosen: Sequence[int],
        channels: Sequence[int],
        out_channels: int,
        extra: Any,
    ) -> None:
        super().__init__()
        self.body, self.chosen = body, tuple(chosen)
        self.fpn = FeaturePyramidNetwork(list(channels), out_channels, extra_blocks=extra)
        self.out_channels = out_channels
        self.precision: torch.dtype | None = None  # of autocast; what comes out is as the images

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return name -> level, finest first; "0", "1" ... and those of the extra levels."""
        with torch.autocast(x.device.type, self.precision, enabled=self.precision is not None):
            maps = self.body(x)
            levels = self.fpn(OrderedDict((str(k), maps[i]) for k, i in enumerate(self.chosen)))
        return OrderedDict((name, level.to(x.dtype)) for name, level in levels.items())

    @property
    def levels(self) -> int:
        """How many maps are taken, without the extra levels."""
        return len(self.chosen)


@final
class SingleMap(nn.Module):
    """One map alone, under the name "0"."""

    def __init__(self, body: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body, self.out_channels = body, out_channels
        self.precision: torch.dtype | None = None  # of autocast; what comes out is as the images

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return {"0": map}."""
        with torch.autocast(x.device.type, self.precision, enabled=self.precision is not None):
            return OrderedDict([("0", self.body(x).to(x.dtype))])


def freeze_stages(
    body: nn.Module, trainable: int | None, *, default: int | None = None
) -> list[nn.Module]:
    """Hold the parameters of all stages but the last ones, and return the modules of the held.

    Args:
        body: of `senet.backbone`; the stem up to half the resolution of the image is a stage, each
            lower resolution another.
        trainable: how many stages are trained; None for `default` of them.
        default: all if not given, or where there are not so many.

    Raises:
        ConfigError: more stages than there are.
    """
    ends = _ends(body)
    if trainable is None:
        trainable = len(ends) if default is None else min(default, len(ends))
    if not 0 <= trainable <= len(ends):
        raise ConfigError(
            f"trainable_stages must be from 0 to {len(ends)} for this backbone, got {trainable}"
        )
    first = 0 if trainable == len(ends) else [0, *ends][len(ends) - trainable]
    held = list(body.modules())[:first]
    for module in held:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad = False
    return held


def _ends(body: Any) -> list[int]:
    """Return how many modules are in front of the end of each stage, in their order."""
    names = [name for name, _ in body.named_modules()]
    ends = []
    for info in body.feature_info.info:
        path = str(info["module"])
        forms = (path, path.replace(".", "_", 1), f"model.{path}")
        inside = [
            place
            for place, name in enumerate(names)
            for form in forms
            if name == form or name.startswith(form + ".")
        ]
        if inside:
            ends.append(inside[-1] + 1)
    return ends


def split_at(body: nn.Module, index: int) -> tuple[nn.Module, nn.Module]:
    """Return the layers of a backbone up to its map number `index`, and those behind it.

    Raises:
        ConfigError: the backbone is no list of layers.
    """
    info = body.feature_info.info[index]  # type: ignore[union-attr,index]
    names = list(body._modules)
    path = str(info["module"])  # type: ignore[index]
    name = path if path in names else path.replace(".", "_", 1)
    if name not in names:
        raise ConfigError(
            "neck 'c4' needs a network whose layers run one behind the other, and this one runs "
            "its own forward; use neck 'fpn'"
        )
    cut = names.index(name) + 1
    parts = [
        nn.Sequential(OrderedDict((n, body.get_submodule(n)) for n in part))
        for part in (names[:cut], names[cut:])
    ]
    return parts[0], parts[1]


def mask_padding_in(detector: nn.Module, *, enabled: bool = True) -> nn.Module:
    """Let the SE blocks in a detector's backbone squeeze each image over its own pixels.

    For any detector of torchvision's build, with a `transform` that pads images to a batch and a
    `backbone`; see `senet.mask_padding`. It says so by hooks on these two.

    Args:
        detector: changed in place.
        enabled: False takes the hooks away: the whole map is squeezed.

    Returns:
        The detector.
    """
    transform, backbone = detector.get_submodule("transform"), detector.get_submodule("backbone")
    for hooks in (transform._forward_hooks, backbone._forward_hooks, backbone._forward_pre_hooks):
        for number, hook in list(hooks.items()):
            if hook in (_note_sizes, _begin, _end):
                del hooks[number]
    if enabled:
        transform.register_forward_hook(_note_sizes)
        backbone.register_forward_pre_hook(_begin)
        backbone.register_forward_hook(_end, always_call=True)
    return detector


def _note_sizes(_transform: nn.Module, _given: Any, output: Any) -> None:
    """The sizes of the images go with the batch."""
    images = output[0]
    if not torch.compiler.is_exporting():
        images.tensors.own_sizes = images.image_sizes


def _begin(_backbone: nn.Module, given: tuple[Any, ...]) -> None:
    sizes = getattr(given[0], "own_sizes", None)
    set_padding(None if sizes is None else Padding(sizes, given[0].shape[2:]))


def _end(_backbone: nn.Module, _given: Any, _output: Any) -> None:
    set_padding(None)
