"""Shake-Shake networks for CIFAR: two branches, mixed at random, another mixture in the backward.

Source: X. Gastaldi, "Shake-Shake regularization", and the author's code
(github.com/xgastaldi/shake-shake).
"""

from __future__ import annotations

from functools import partial
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.blocks import SqueezeExcitation
from senet.errors import ConfigError, unknown_name
from senet.models.nets.classifier import Classifier, Options

__all__ = ["Shake", "ShakeNet"]

BACKWARDS = ("shake", "even")


class _Mix(torch.autograd.Function):
    """alpha a + (1 - alpha) b, whose gradients are those of beta a + (1 - beta) b."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(beta)
        return alpha * a + (1 - alpha) * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (beta,) = ctx.saved_tensors
        return beta * grads[0], (1 - beta) * grads[0], None, None


class Shake(nn.Module):
    """The mixture of two maps.

    In training y = alpha a + (1 - alpha) b with alpha uniform in [0, 1], drawn for each image;
    the gradients have beta in alpha's place, drawn as well ("shake") or 1/2 ("even"). In evaluation
    both are 1/2.

    Args:
        backward: "shake" or "even".

    Raises:
        UnknownNameError: no such backward.
    """

    def __init__(self, backward: str = "shake") -> None:
        super().__init__()
        if backward not in BACKWARDS:
            raise unknown_name("backward", backward, BACKWARDS)
        self.backward = backward

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map two [N, C, H, W] to one."""
        if not self.training:
            return 0.5 * a + 0.5 * b
        alpha = torch.rand(a.shape[0], 1, 1, 1, device=a.device, dtype=a.dtype)
        even = self.backward == "even"
        beta = torch.full_like(alpha, 0.5) if even else torch.rand_like(alpha)
        return _Mix.apply(a, b, alpha, beta)  # type: ignore[no-any-return]


@final
class SEShake(Shake):
    """A mixture of two maps with an SE block behind it.

    Args:
        channels: C.
        backward: "shake" or "even".
        se: options of `senet.SqueezeExcitation`.
    """

    def __init__(self, channels: int, backward: str, *, se: Options) -> None:
        super().__init__(backward)
        self.se = SqueezeExcitation(channels, **(se or {}))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map two [N, C, H, W] to one."""
        return self.se(super().forward(a, b))  # type: ignore[no-any-return]


@final
class _Shortcut(nn.Module):
    """Half of the channels from every second pixel, half from their diagonal neighbours.

    With stride 1 the halves see the same image, one of them shifted.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.conv2 = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)]."""
        x, stride = F.relu(x), self.stride
        shifted = F.pad(x, (1, -1, 1, -1))  # one pixel to the right and one down
        halves = (
            self.conv1(x[..., ::stride, ::stride]),
            self.conv2(shifted[..., ::stride, ::stride]),
        )
        return self.bn(torch.cat(halves, dim=1))  # type: ignore[no-any-return]


@final
class _Unit(nn.Module):
    """SE(mix(branch1(x), branch2(x))) + shortcut(x); ResNeXt's bottlenecks end with a ReLU."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        groups: int,
        backward: str,
        se: Options,
    ) -> None:
        super().__init__()
        self.branch1 = _branch(in_channels, channels, stride=stride, groups=groups)
        self.branch2 = _branch(in_channels, channels, stride=stride, groups=groups)
        self.mix = Shake(backward) if se is None else SEShake(channels, backward, se=se)
        self.shortcut: nn.Module | None = None
        if groups and (stride > 1 or in_channels != channels):
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        elif in_channels != channels:
            self.shortcut = _Shortcut(in_channels, channels, stride=stride)
        self.last = nn.ReLU() if groups else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)]."""
        identity = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = self.last(self.mix(self.branch1(x), self.branch2(x)) + identity)
        return out


def _branch(in_channels: int, channels: int, *, stride: int, groups: int) -> nn.Sequential:
    """Return relu, 3x3, relu, 3x3; with groups 1x1, 3x3 in so many groups, 1x1.

    The second form: Xie et al., figure 3c.
    """
    if not groups:
        return nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
    width = channels // 4 * groups
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


@final
class ShakeNet(Classifier):
    """A residual network of two mixed branches: three stages of n units each.

    The SE block is behind the mixture, the child `se` of `mix`.

    Args:
        depth: 6n + 2 (26 in the paper); with groups 9n + 2 (29).
        base: channels of the first convolutions in the first stage, per group: the 96 of 2x96d, the
            64 of 2x4x64d.
        groups: 0 for two 3x3 convolutions in a branch; else ResNeXt's bottleneck with so many.
        backward: "shake" or "even"; see `Shake`.
        se: options of `senet.SqueezeExcitation`; None for the plain network.
        num_classes: number of logits; 0 for the pooled features.
        in_chans: channels of the image.

    Raises:
        ConfigError: there is no such depth.
        UnknownNameError: no such backward.

    Example:
        >>> net = ShakeNet(depth=8, base=16)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        depth: int,
        base: int,
        groups: int = 0,
        backward: str = "shake",
        se: Options = None,
        num_classes: int = 10,
        in_chans: int = 3,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, size=32)
        per_stage = 9 if groups else 6
        if depth < per_stage + 2 or depth % per_stage != 2:
            raise ConfigError(
                f"depth must be {per_stage}n + 2 with n >= 1, got {depth}; "
                f"try {29 if groups else 26}"
            )
        self.groups, self.num_features = groups, 64 if groups else 16
        self.conv1 = nn.Conv2d(in_chans, self.num_features, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.num_features)
        if groups:  # the children stand in the order in which they run
            self.relu = nn.ReLU()
        unit = partial(_Unit, groups=groups, backward=backward, se=se)
        widths = [base * 2**number * (4 if groups else 1) for number in range(3)]
        self._add_stages(unit, [depth // per_stage] * 3, widths)
        if not groups:
            self.relu = nn.ReLU()
        self._finish()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [N, in_chans, H, W] to [N, num_features, ceil(H / 4), ceil(W / 4)]."""
        x = self.bn1(self.conv1(x))
        if self.groups:
            return self._forward_stages(self.relu(x))
        return self.relu(self._forward_stages(x))  # type: ignore[no-any-return]
