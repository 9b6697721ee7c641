"""ShuffleNet v1, which neither torchvision nor timm has.

Source: X. Zhang, X. Zhou, M. Lin, J. Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural
Network for Mobile Devices", table 1 and figure 2.
"""

from __future__ import annotations

from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from senet.errors import unknown_name
from senet.models.nets.classifier import Classifier, Options, last_norm

__all__ = ["Shuffle", "ShuffleNet", "ShuffleUnit"]

# groups of the pointwise convolutions: channels of stage 2; each later stage has twice as many
_WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
_UNITS = (4, 8, 4)
_STEM = 24  # channels in front of stage 2


@final
class Shuffle(nn.Module):
    """The channel shuffle: channel i of group g goes to place i * groups + g.

    Args:
        groups: number of groups.

    Example:
        >>> Shuffle(2)(torch.arange(6.0).reshape(1, 6, 1, 1)).flatten().tolist()
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels of x [N, C, H, W] in their new order."""
        n, channels, *size = x.shape
        grouped = x.reshape(n, self.groups, channels // self.groups, *size)
        return grouped.transpose(1, 2).reshape(x.shape)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"groups={self.groups}"


@final
class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1: a branch, added to the input or beside it.

    With stride 1 the output is relu(SE(branch(x)) + x). With stride 2 it is the concatenation of
    the input, averaged over 3x3, and SE(branch(x)), and relu of both.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: 1, or 2 for the first unit of a stage.
        groups: of both 1x1 convolutions; where the input has 24 channels, of the second alone.
        se: options of `senet.SqueezeExcitation`; None for the plain unit.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        groups: int,
        se: Options = None,
    ) -> None:
        super().__init__()
        narrow = channels // 4
        first = 1 if in_channels == _STEM else groups
        made = channels if stride == 1 else channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, narrow, 1, groups=first, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.shuffle = Shuffle(groups)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, groups=narrow, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, made, 1, groups=groups, bias=False)
        self.bn3 = last_norm(made, se)
        self.relu = nn.ReLU(inplace=True)
        self.pool = None if stride == 1 else nn.AvgPool2d(3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)]."""
        u = self.shuffle(self.relu(self.bn1(self.conv1(x))))
        u = self.bn3(self.conv3(self.bn2(self.conv2(u))))
        u = u + x if self.pool is None else torch.cat((self.pool(x), u), dim=1)
        return self.relu(u)  # type: ignore[no-any-return]


@final
class ShuffleNet(Classifier):
    """ShuffleNet v1 at its full width ("1x").

    The first 1x1 convolution of stage 2 has no groups, as in the paper, because it reads 24
    channels. Convolutions start with He's normal initialisation.

    With SE, a block rescales the branch of each of the 16 units, as in every residual network of
    the SE paper, which does not say where its blocks stand in this one and prints 2.4 M parameters.
    Without biases (the paper's ablations) that is 1,865,728 + 610,416 = 2.476 M: it fits if both
    of its numbers are cut off and not rounded, 1.8 and 2.4. Blocks in the 13 units with stride 1
    alone would be 2.435 M, which fits as well; blocks behind all units 2.586 M, which does not.

    Args:
        groups: of the 1x1 convolutions: 1, 2, 3, 4 or 8. With more of them the network is wider.
        se: options of `senet.SqueezeExcitation`; None for the plain network.
        num_classes: number of logits; 0 for the pooled features.
        in_chans: channels of the image.

    Raises:
        UnknownNameError: the paper has no network with so many groups.

    Example:
        >>> net = ShuffleNet(groups=3, num_classes=10)
        >>> net(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
        >>> sum(parameter.numel() for parameter in ShuffleNet().parameters())
        1865728
    """

    def __init__(
        self,
        *,
        groups: int = 3,
        se: Options = None,
        num_classes: int = 1000,
        in_chans: int = 3,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, size=224)
        if groups not in _WIDTHS:
            raise unknown_name("groups", str(groups), [str(known) for known in _WIDTHS])
        unit = partial(ShuffleUnit, groups=groups, se=se)
        self.conv1 = nn.Conv2d(in_chans, _STEM, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self._add_map("relu", _STEM, 2)
        self._add_map("maxpool", _STEM, 4)
        for number, units in enumerate(_UNITS, start=2):
            width = _WIDTHS[groups] * 2 ** (number - 2)
            self._add_stage(
                f"stage{number}", unit, blocks=units, channels=width, reduction=2 ** (number + 1)
            )
        self._finish()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [N, in_chans, H, W] to [N, num_features, H / 32, W / 32], rounded up."""
        return self._forward_stages(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
