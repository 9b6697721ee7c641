"""The residual networks for CIFAR-10.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
section 4.2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from senet.blocks import residual_tail
from senet.errors import ConfigError
from senet.models.nets.classifier import Classifier, Options, last_norm
from senet.models.nets.staged import Stage

__all__ = ["CifarResNet", "PadShortcut"]


class PadShortcut(nn.Module):
    """The shortcut without parameters: every `stride`-th pixel, and zeros for the new channels.

    This is option A of the paper. The zeros are shared between both ends of the channel axis, as in
    the published weights.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, at least as many.
        stride: step over rows and columns.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (out_channels - in_channels) // 2
        self.padding = (before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut: relu(SE(branch(x)) + shortcut(x)).

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        se: options of `senet.SqueezeExcitation`; None for the plain block.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, se: Options = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = last_norm(channels, se)
        self.relu2 = nn.ReLU()
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else PadShortcut(in_channels, channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)]."""
        u = self.conv2(self.relu1(self.bn1(self.conv1(x))))
        return residual_tail(self.bn2, u, self.shortcut(x), self.relu2)


class CifarResNet(Classifier):
    """A ResNet of depth 6n + 2 for small pictures: three stages of n blocks each.

    The stages have 16, 32 and 64 channels; with r = 16 an SE block has 1, 2 and 4 hidden units.
    Convolutions and the classifier start with He's normal initialisation. The names of the
    parameters are those of the published weights (`conv1`, `bn1`, `layer1.0.conv1`, ..., `linear`).

    Args:
        depth: 6n + 2 with n >= 1: 20, 32, 44, 56 and 110 in the paper.
        se: options of `senet.SqueezeExcitation`; None for the plain network.
        num_classes: number of logits; 0 for the pooled features.
        in_chans: channels of the picture.

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
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ConfigError(
                f"depth must be 6n + 2 with n >= 1, got {depth}; try 20, 32, 44 or 56"
            )
        blocks = (depth - 2) // 6
        self.num_classes, self.num_features = num_classes, 64
        self.input_size = (in_chans, 32, 32)
        self.feature_info = [
            {"module": "layer1", "num_chs": 16, "reduction": 1},
            {"module": "layer2", "num_chs": 32, "reduction": 2},
            {"module": "layer3", "num_chs": 64, "reduction": 4},
        ]
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks=blocks, stride=1, se=se)
        self.layer2 = _stage(16, 32, blocks=blocks, stride=2, se=se)
        self.layer3 = _stage(32, 64, blocks=blocks, stride=2, se=se)
        self._finish()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map pictures [N, in_chans, H, W] to [N, 64, ceil(H / 4), ceil(W / 4)]."""
        x = self.relu(self.bn1(self.conv1(x)))  # [N, 16, H, W]
        return self.layer3(self.layer2(self.layer1(x)))  # type: ignore[no-any-return]


def _stage(in_channels: int, channels: int, *, blocks: int, stride: int, se: Options) -> Stage:
    """Return one stage: the first block changes size and channels, the others keep them."""
    first = BasicBlock(in_channels, channels, stride=stride, se=se)
    rest = (BasicBlock(channels, channels, stride=1, se=se) for _ in range(blocks - 1))
    return Stage(first, *rest)
