"""BN-Inception, plain and with SE, as the authors' file defines it.

Sources: S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift"; the authors' prototxt (github.com/hujie-frank/SENet).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.blocks import SqueezeExcitation
from senet.models.nets.classifier import Classifier, Options

__all__ = ["BNInception", "InceptionModule", "SEInceptionModule"]


class _Widths(NamedTuple):
    """One module: channels of each convolution (0: none), and how it pools."""

    single: int  # 1x1
    reduced: int  # 1x1 before
    triple: int  # 3x3
    double_reduced: int  # 1x1 before
    double: int  # two 3x3
    pool: str  # "avg", "max", or "down": the module halves the map, and the pool is not projected
    projected: int = 0  # 1x1 behind the pool


_MODULES: dict[str, _Widths] = {
    "3a": _Widths(64, 64, 64, 64, 96, "avg", 32),
    "3b": _Widths(64, 64, 96, 64, 96, "avg", 64),
    "3c": _Widths(0, 128, 160, 64, 96, "down"),
    "4a": _Widths(224, 64, 96, 96, 128, "avg", 128),
    "4b": _Widths(192, 96, 128, 96, 128, "avg", 128),
    "4c": _Widths(160, 128, 160, 128, 160, "avg", 128),
    "4d": _Widths(96, 128, 192, 160, 192, "avg", 128),
    "4e": _Widths(0, 128, 192, 192, 256, "down"),
    "5a": _Widths(352, 192, 320, 160, 224, "avg", 128),
    "5b": _Widths(352, 192, 320, 192, 224, "max", 128),
}


@final
class _CeilPool(nn.Module):
    """The 3x3 maximum at every second position, without padding at the top and the left (Caffe's).

    A map of odd size is as if one more pixel followed it, so that the output has the size of the
    strided convolutions beside it; the authors' file takes maps of even size only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, ceil(H / 2), ceil(W / 2)]."""
        odd_h, odd_w = x.shape[2] % 2, x.shape[3] % 2
        if odd_h or odd_w:
            x = F.pad(x, (0, odd_w, 0, odd_h), value=-torch.inf)
        return F.max_pool2d(x, 3, 2, ceil_mode=True)


def _conv(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution, its batch norm, and the activation."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(
        OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True))
    )


class InceptionModule(nn.Module):
    """Four branches side by side, concatenated: 1x1; 3x3; two 3x3; pool.

    Args:
        in_channels: channels of the input.
        widths: of the branches.
    """

    def __init__(self, in_channels: int, widths: _Widths) -> None:
        super().__init__()
        w, stride = widths, 2 if widths.pool == "down" else 1
        self.conv1x1 = _conv(in_channels, w.single, 1) if w.single else None
        self.conv3x3_reduce = _conv(in_channels, w.reduced, 1)
        self.conv3x3 = _conv(w.reduced, w.triple, 3, stride)
        self.double3x3_reduce = _conv(in_channels, w.double_reduced, 1)
        self.double3x3a = _conv(w.double_reduced, w.double, 3)
        self.double3x3b = _conv(w.double, w.double, 3, stride)
        self.pool: nn.Module = _CeilPool()
        if w.pool == "max":
            self.pool = nn.MaxPool2d(3, 1, padding=1)
        elif w.pool == "avg":
            self.pool = nn.AvgPool2d(3, 1, padding=1)  # the padding counts
        self.pool_proj = _conv(in_channels, w.projected, 1) if w.projected else None
        self.out_channels = w.single + w.triple + w.double + (w.projected or in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, out_channels, H / stride, W / stride], rounded up."""
        maps = [] if self.conv1x1 is None else [self.conv1x1(x)]
        maps.append(self.conv3x3(self.conv3x3_reduce(x)))
        maps.append(self.double3x3b(self.double3x3a(self.double3x3_reduce(x))))
        pooled = self.pool(x)
        maps.append(pooled if self.pool_proj is None else self.pool_proj(pooled))
        return torch.cat(maps, dim=1)


@final
class SEInceptionModule(InceptionModule):
    """An `InceptionModule` with an SE block behind the concatenation.

    Args:
        in_channels: channels of the input.
        widths: of the branches.
        se: options of `senet.SqueezeExcitation`.
    """

    def __init__(self, in_channels: int, widths: _Widths, *, se: Options) -> None:
        super().__init__(in_channels, widths)
        self.se = SqueezeExcitation(self.out_channels, **(se or {}))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, out_channels, H / stride, W / stride], rounded up."""
        return self.se(super().forward(x))  # type: ignore[no-any-return]


@final
class BNInception(Classifier):
    """BN-Inception without auxiliary classifiers, with or without SE blocks.

    Names follow the authors' layers: `conv1`, `inception_3a.conv3x3_reduce.conv`,
    `inception_3a.se.fc1`, ..., `classifier`.

    Args:
        se: options of `senet.SqueezeExcitation`; None for the plain network.
        num_classes: number of logits; 0 for the pooled features.
        in_chans: channels of the image.

    Example:
        >>> net = BNInception(se={"reduction": 16}, num_classes=10)
        >>> net(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    _stem = ("conv1", "conv2_reduce", "conv2")
    _last = "classifier"

    def __init__(self, *, se: Options = None, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans, size=224)
        self.conv1 = _conv(in_chans, 64, 7, 2)
        self.pool1 = _CeilPool()
        self.conv2_reduce = _conv(64, 64, 1)
        self.conv2 = _conv(64, 192, 3)
        self.pool2 = _CeilPool()
        channels = 192
        for name, widths in _MODULES.items():
            module = (
                InceptionModule(channels, widths)
                if se is None
                else SEInceptionModule(channels, widths, se=se)
            )
            self.add_module(f"inception_{name}", module)
            self._stages.append(f"inception_{name}")
            channels = module.out_channels
        self._add_map("conv1", 64, 2)
        self._add_map("conv2", 192, 4)
        self._add_map("inception_3b", 320, 8)
        self._add_map("inception_4d", 608, 16)
        self._add_map("inception_5b", channels, 32)
        self._finish()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [N, in_chans, H, W] to [N, 1024, H / 32, W / 32], rounded up."""
        x = self.pool1(self.conv1(x))
        return self._forward_stages(self.pool2(self.conv2(self.conv2_reduce(x))))
