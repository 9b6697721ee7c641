"""What the project's networks share: the interface of a classifier, the first weights, the norm
that carries an SE block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

import torch.nn.functional as F
from torch import Tensor, nn

from senet.blocks import SEBatchNorm2d, SqueezeExcitation
from senet.errors import ConfigError
from senet.models.nets.staged import Staged

__all__ = ["Classifier", "Options", "SEConv2d", "last_conv", "last_norm"]

# The options of senet.SqueezeExcitation but for its channels; None: no SE block.
Options = Mapping[str, Any] | None

_POOLS = ("avg", "")


class Classifier(Staged, ABC):
    """A network that maps pictures to logits: features, their mean over the positions, a layer.

    The calls have timm's names and meaning. A subclass writes `forward_features` and calls
    `_finish` at the end of its constructor.

    Attributes:
        num_classes: number of logits; 0 if the network ends with the pooled features.
        input_size: the picture (channels, height, width) that the network is made for.
        feature_info: one dict for each resolution: `module` whose output is the last map of this
            resolution, its channels `num_chs`, and how many times smaller than the picture
            (`reduction`) it is.
        drop_rate: probability of dropout before the last layer.
        global_pool: "avg", or "" for no pooling.
    """

    num_classes: int
    input_size: tuple[int, int, int]
    feature_info: list[dict[str, Any]]
    drop_rate: float = 0.0
    global_pool: str = "avg"

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Map pictures [N, C, H, W] to the last map [N, num_features, h, w]."""

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Map the last map [N, num_features, h, w] to logits [N, num_classes].

        Args:
            x: the last map, of any height and width.
            pre_logits: return what the last layer would see, [N, num_features].
        """
        if self.global_pool:
            x = x.mean(dim=(2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [N, C, H, W] to logits [N, num_classes]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last layer; `nn.Identity` if there is none."""
        return self.get_submodule(self._last)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a new one; with 0 classes by none.

        Args:
            num_classes: number of logits.
            global_pool: "avg", or "" for no pooling, which needs 0 classes; as it was if not given.

        Raises:
            ConfigError: the number is negative, or there is no such pooling.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in _POOLS or (num_classes and not pool):
            raise ConfigError(
                f"global_pool must be 'avg', or '' with num_classes=0, got {pool!r} with "
                f"num_classes={num_classes}"
            )
        if num_classes < 0:
            raise ConfigError(f"num_classes must be at least 0, got {num_classes}")
        self.global_pool, self.num_classes = pool, num_classes
        weight = next(self.parameters())
        layer = self._new_classifier().to(weight.device, weight.dtype)
        _draw(layer)
        self.set_submodule(self._last, layer)

    def _new_classifier(self) -> nn.Module:
        return nn.Linear(self.num_features, self.num_classes) if self.num_classes else nn.Identity()

    def _finish(self) -> None:
        """Make the last layer; draw it and the convolutions from He's normal distribution."""
        self.add_module(self._last, self._new_classifier())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        _draw(self.get_classifier())


def _draw(layer: nn.Module) -> None:
    """Draw the last layer: He's normal distribution, zero biases."""
    if isinstance(layer, nn.Linear):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)


@final
class SEConv2d(nn.Conv2d):
    """A convolution without bias and an SE block behind it, for branches that end without a norm.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution, which keeps the size of the map.
        se: options of `senet.SqueezeExcitation`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, se: Mapping[str, Any]
    ) -> None:
        padding = kernel_size // 2
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        self.se = SqueezeExcitation(out_channels, **se)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch.nn.Conv2d
        """Map [N, in_channels, H, W] to [N, out_channels, H, W]."""
        return self.se(super().forward(input))  # type: ignore[no-any-return]


def last_norm(channels: int, se: Options) -> nn.Module:
    """Return the batch norm at the end of a residual branch, with an SE block inside if asked."""
    return nn.BatchNorm2d(channels) if se is None else SEBatchNorm2d(channels, se=se)


def last_conv(in_channels: int, channels: int, kernel: int, se: Options) -> nn.Conv2d:
    """Return the convolution at the end of a pre-activation branch, with an SE block if asked."""
    if se is not None:
        return SEConv2d(in_channels, channels, kernel, se=se)
    return nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
