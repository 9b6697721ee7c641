"""The residual networks for CIFAR-10.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
section 4.2.
"""

from __future__ import annotations

from functools import partial
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from senet.errors import ConfigError
from senet.models.nets.classifier import Classifier, Options
from senet.models.nets.resnet import BasicBlock

__all__ = ["CifarResNet", "PadShortcut"]


@final
class PadShortcut(nn.Module):
    """The shortcut without parameters: every `stride`-th pixel, and zeros for the new channels.

    This is option A of the paper. The zeros are shared between both ends of the channel axis, as in
    the published weights.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, at least as many.
        stride: every how many rows and columns one is kept.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (out_channels - in_channels) // 2
        self.padding = (before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


class CifarResNet(Classifier):
    """A ResNet of depth 6n + 2 for small images: three stages of n blocks each.

    The stages have 16, 32 and 64 channels; with r = 16 an SE block has 1, 2 and 4 hidden units.
    Convolutions and the classifier start with He's normal initialisation. The names of the
    parameters are those of the published weights (`conv1`, `bn1`, `layer1.0.conv1`, ..., `linear`).

    Args:
        depth: 6n + 2 with n >= 1: 20, 32, 44, 56 and 110 in the paper.
        se: options of `senet.SqueezeExcitation`; None for the plain network.
        num_classes: number of logits; 0 for the pooled features.
        in_chans: channels of the image.

    Raises:
        ConfigError: the depth is not 6n + 2.

    Example:
        >>> import torch
        >>> CifarResNet(depth=20, num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    _last = "linear"

    def __init__(
        self, *, depth: int, se: Options = None, num_classes: int = 10, in_chans: int = 3
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, size=32)
        if depth < 8 or depth % 6 != 2:
            raise ConfigError(
                f"depth must be 6n + 2 with n >= 1, got {depth}; try 20, 32, 44 or 56"
            )
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.num_features = 16
        block = partial(BasicBlock, se=se, shortcut=PadShortcut)
        self._add_stages(block, [depth // 6] * 3, (16, 32, 64))
        self._finish()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [N, in_chans, H, W] to [N, 64, ceil(H / 4), ceil(W / 4)]."""
        return self._forward_stages(self.relu(self.bn1(self.conv1(x))))
