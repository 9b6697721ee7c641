"""Pre-activation residual networks for small images: ResNet-164 and wide ResNets.

Sources: K. He et al., "Identity Mappings in Deep Residual Networks" (ResNet-164 with bottlenecks);
S. Zagoruyko, N. Komodakis, "Wide Residual Networks" (WRN-16-8).
"""

from __future__ import annotations

from functools import partial
from typing import final

from torch import Tensor, nn

from senet.errors import ConfigError
from senet.models.nets.classifier import Classifier, Options, ResidualBlock, last_conv

__all__ = ["PreActResNet"]


@final
class _Unit(ResidualBlock):
    """SE(branch(x)) + shortcut(x), where each convolution follows a batch norm and a ReLU.

    Two 3x3 convolutions, or as a bottleneck 1x1, 3x3, 1x1, the first two with a quarter of the
    channels. Where size or channels change, the shortcut is a 1x1 convolution of the activated
    input, which it shares with the branch.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, bottleneck: bool, se: Options
    ) -> None:
        super().__init__()
        width, kernel = (channels // 4, 1) if bottleneck else (channels, 3)
        pad = kernel // 2
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, padding=pad, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if bottleneck:
            self.conv2: nn.Module = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.bn3 = nn.BatchNorm2d(width)
            self.conv3 = last_conv(width, channels, 1, se)
        else:
            self.conv2 = last_conv(width, channels, 3, se)
        self.bottleneck = bottleneck
        same = stride == 1 and in_channels == channels
        self.shortcut = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)]."""
        active = self.relu(self.bn1(x))
        identity = x if self.shortcut is None else self.shortcut(active)
        u = self.conv2(self.relu(self.bn2(self.conv1(active))))
        if self.bottleneck:
            u = self.conv3(self.relu(self.bn3(u)))
        return self.drop_path(u) + identity


@final
class PreActResNet(Classifier):
    """A pre-activation residual network: three stages of n units each.

    The stages have 16 w, 32 w and 64 w channels, four times as many with bottlenecks. An SE block
    is the child `se` of the last convolution of each branch, as after `senet.insert`.

    Args:
        depth: 9n + 2 with bottlenecks (164 in the paper), else 6n + 4 (16).
        width: w.
        bottleneck: units of three convolutions instead of two.
        se: options of `senet.SqueezeExcitation`; None for the plain network.
        num_classes: number of logits; 0 for the pooled features.
        in_chans: channels of the image.

    Raises:
        ConfigError: there is no such depth.

    Example:
        >>> import torch
        >>> net = PreActResNet(depth=10, width=2, se={"reduction": 4})
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int = 1,
        bottleneck: bool = False,
        se: Options = None,
        num_classes: int = 10,
        in_chans: int = 3,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, size=32)
        per_unit, rest = (9, 2) if bottleneck else (6, 4)
        if depth < per_unit + rest or depth % per_unit != rest:
            raise ConfigError(
                f"depth must be {per_unit}n + {rest} with n >= 1, got {depth}; "
                f"try {'164' if bottleneck else '16'}"
            )
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.num_features = 16
        unit = partial(_Unit, bottleneck=bottleneck, se=se)
        widths = [base * width * (4 if bottleneck else 1) for base in (16, 32, 64)]
        self._add_stages(unit, [depth // per_unit] * 3, widths)
        self.bn = nn.BatchNorm2d(self.num_features)
        self.relu = nn.ReLU()
        self._finish()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [N, in_chans, H, W] to [N, num_features, ceil(H / 4), ceil(W / 4)]."""
        return self.relu(self.bn(self._forward_stages(self.conv1(x))))  # type: ignore[no-any-return]
