"""ResNet, ResNeXt and SENet-154, plain and with SE, as the authors' files define them.

Sources: K. He et al., "Deep Residual Learning for Image Recognition"; S. Xie et al., "Aggregated
Residual Transformations for Deep Neural Networks"; J. Hu et al., "Squeeze-and-Excitation Networks",
table 1 and appendix; the authors' prototxt files (github.com/hujie-frank/SENet).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from torch import Tensor, nn

from senet.errors import unknown_name
from senet.models.nets.classifier import Classifier, Options, ResidualBlock, last_norm

__all__ = ["BasicBlock", "Bottleneck", "ResNet"]

LAYOUTS = ("authors", "torchvision")
_WIDTHS = (64, 128, 256, 512)  # of the four stages, before expansion


@final
@dataclass(frozen=True)
class _Shape:
    """What is the same in all bottlenecks of a network."""

    groups: int
    width_per_group: int
    thin: int  # the first 1x1 has so many times fewer channels than the 3x3
    projection: int  # kernel of the projections that change the size
    stride_first: bool  # the stride is on the first 1x1, not on the 3x3


def _projection(in_channels: int, channels: int, *, stride: int, kernel: int = 1) -> nn.Sequential:
    """Return a convolution and its batch norm, for a shortcut that changes size or channels."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
    )


@final
class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions: relu(SE(branch(x)) + shortcut(x)); in ResNet-18 and 34, and CIFAR's.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the first convolution and of the shortcut.
        se: options of `senet.SqueezeExcitation`; None for the plain block.
        shortcut: builds the shortcut where size or channels change.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        se: Options,
        shortcut: Callable[..., nn.Module] = _projection,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = last_norm(channels, se)
        same = stride == 1 and in_channels == channels
        self.downsample = None if same else shortcut(in_channels, channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)]."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.residual_end(self.conv2, self.bn2, x, identity, self.relu)


@final
class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1: relu(SE(branch(x)) + shortcut(x)).

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the block.
        se: options of `senet.SqueezeExcitation`; None for the plain block.
        shape: of the network's blocks.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, se: Options, shape: _Shape
    ) -> None:
        super().__init__()
        width = channels // 4 * shape.width_per_group // 64 * shape.groups
        reduced = width // shape.thin
        first, second = (stride, 1) if shape.stride_first else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, reduced, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(reduced)
        self.conv2 = nn.Conv2d(
            reduced, width, 3, second, padding=1, groups=shape.groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = last_norm(channels, se)
        self.relu = nn.ReLU(inplace=True)
        kernel = shape.projection if stride > 1 else 1
        same = stride == 1 and in_channels == channels
        self.downsample = (
            None if same else _projection(in_channels, channels, stride=stride, kernel=kernel)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)]."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.residual_end(self.conv3, self.bn3, x, identity, self.relu)


_CHOICES: dict[str, Sequence[str]] = {
    "layout": LAYOUTS,
    "block": ("basic", "bottleneck"),
    "stem": ("7x7", "3x3"),
}


@final
class ResNet(Classifier):
    """A residual network for ImageNet, with or without SE blocks.

    Names of parameters are torchvision's; an SE block is the child `se` of the last batch norm of
    each branch (`layer1.0.bn3.se.fc1.weight`), as after `senet.insert`. Convolutions and classifier
    start with He's normal initialisation, batch norms with 1 and 0.

    Args:
        depths: blocks of the four stages.
        block: "basic" or "bottleneck".
        groups: of the 3x3 convolutions (ResNeXt's cardinality).
        width_per_group: channels of each group in the first stage.
        stem: "7x7", or "3x3": three of them (64, 64, 128 channels).
        thin: the first 1x1 of a bottleneck has so many times fewer channels than its 3x3.
        projection: kernel size of the projections that change the size: 1 or 3.
        stride_first: the authors' layout has the stride on the first 1x1 of a bottleneck, not on
            the 3x3.
        drop_rate: probability of dropout before the classifier.
        layout: "authors": the stride as `stride_first` says, and the stem's pooling without
            padding, its size rounded up (Caffe's). "torchvision": the stride on the 3x3, and the
            pooling padded by 1, as in torchvision and timm.
        se: options of `senet.SqueezeExcitation`; None for the plain network.
        zero_init_last: start the last gamma of each branch at 0, as timm does; the paper does not.
        num_classes: number of logits; 0 for the pooled features.
        in_chans: channels of the image.

    Raises:
        UnknownNameError: no such block, stem or layout.

    Example:
        >>> import torch
        >>> net = ResNet(depths=(1, 1, 1, 1), se={"reduction": 8}, num_classes=10)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        block: str = "bottleneck",
        groups: int = 1,
        width_per_group: int = 64,
        stem: str = "7x7",
        thin: int = 1,
        projection: int = 1,
        stride_first: bool = False,
        drop_rate: float = 0.0,
        layout: str = "authors",
        se: Options = None,
        zero_init_last: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, size=224)
        _check(layout=layout, block=block, stem=stem)
        authors = layout == "authors"
        self.drop_rate = drop_rate
        channels = 64 if stem == "7x7" else 128
        self.conv1 = _stem(stem, in_chans)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=0 if authors else 1, ceil_mode=authors)
        self._add_map("relu", channels, 2)
        shape = _Shape(
            groups, width_per_group, thin, projection, stride_first=stride_first and authors
        )
        build = partial(BasicBlock, se=se)
        if block == "bottleneck":
            build = partial(Bottleneck, se=se, shape=shape)  # type: ignore[arg-type, assignment]
        widths = [base if block == "basic" else 4 * base for base in _WIDTHS]
        self._add_stages(build, depths, widths, finest=4)
        self._finish()
        if zero_init_last:
            self._zero_last_gammas()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [N, in_chans, H, W] to [N, num_features, H / 32, W / 32], rounded up."""
        return self._forward_stages(self.maxpool(self.relu(self.bn1(self.conv1(x)))))

    def _zero_last_gammas(self) -> None:
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                nn.init.zeros_(last.weight)  # type: ignore[arg-type]


def _check(**words: str) -> None:
    for option, word in words.items():
        if word not in _CHOICES[option]:
            raise unknown_name(option, word, _CHOICES[option])


def _stem(kind: str, in_chans: int) -> nn.Module:
    if kind == "7x7":
        return nn.Conv2d(in_chans, 64, 7, 2, padding=3, bias=False)
    return nn.Sequential(
        nn.Conv2d(in_chans, 64, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 128, 3, padding=1, bias=False),
    )
