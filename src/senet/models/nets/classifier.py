"""What the project's networks share: the interface of a classifier, its stages, its first weights,
and the layers that carry an SE block.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch.nn.functional as F
from torch import Tensor, nn

from senet.blocks import SEBatchNorm2d, SqueezeExcitation, branch_tail
from senet.errors import ConfigError
from senet.models.nets.stage import Stage

__all__ = [
    "Block",
    "Classifier",
    "Options",
    "ResidualBlock",
    "SEConv2d",
    "check_drop_path",
    "last_conv",
    "last_norm",
]

# The options of senet.SqueezeExcitation but for its channels; None: no SE block.
Options = Mapping[str, Any] | None
# Builds a block from the channels of its input, those of its output, and its stride.
Block = Callable[[int, int, int], nn.Module]

_POOLS = ("avg", "")


def check_drop_path(rate: float) -> None:
    """Raise a `ConfigError` for a rate of stochastic depth that cannot be."""
    if not 0 <= rate < 1:
        raise ConfigError(f"drop_path_rate must be in [0, 1), got {rate}")


class ResidualBlock(nn.Module):
    """A block that adds its branch to its input, and may leave the branch out: stochastic depth.

    Source: G. Huang et al., "Deep Networks with Stochastic Depth".

    Attributes:
        drop_path_rate: in training, how often the branch of an image is left out.
    """

    drop_path_rate: float = 0.0

    def drop_path(self, branch: Tensor) -> Tensor:
        """Return the branch [N, ...], zero for some images, for others times 1 / (1 - rate).

        In evaluation, and on average over images, it is the branch itself.
        """
        if not (self.training and self.drop_path_rate):
            return branch
        kept = branch.new_empty(len(branch), *[1] * (branch.dim() - 1))
        kept.bernoulli_(1 - self.drop_path_rate).div_(1 - self.drop_path_rate)
        return branch * kept

    def residual_end(
        self, conv: nn.Module, norm: nn.Module, x: Tensor, identity: Tensor, relu: nn.Module
    ) -> Tensor:
        """Return relu(norm(conv(x)) + identity), the branch left out for some images."""
        if self.training and self.drop_path_rate:
            return relu(self.drop_path(norm(conv(x))) + identity)  # type: ignore[no-any-return]
        return branch_tail(conv, norm, x, identity, relu)


class Classifier(nn.Module, ABC):
    """A network that maps images to logits: features, their mean over the positions, a layer.

    The calls have timm's names and meaning. A subclass writes `forward_features`, adds its stages
    with `_add_stage`, and calls `_finish` at the end of its constructor.

    Args:
        num_classes: number of logits; 0 if the network ends with the pooled features.
        in_chans: channels of the image.
        size: height and width of the image that the network is made for.

    Attributes:
        num_classes: number of logits; 0 if the network ends with the pooled features.
        num_features: channels of the last map.
        input_size: the image (channels, height, width) that the network is made for.
        feature_info: one dict for each resolution: `module` whose output is the last map of this
            resolution, its channels `num_chs`, and how many times smaller than the image
            (`reduction`) it is.
        drop_rate: probability of dropout before the last layer.
        global_pool: "avg", or "" for no pooling.
        _stem: names of the children before the first block.
        _last: name of the last layer.
    """

    drop_rate: float = 0.0
    global_pool: str = "avg"
    _stem: tuple[str, ...] = ("conv1", "bn1")
    _last: str = "fc"

    def __init__(self, *, num_classes: int, in_chans: int, size: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.input_size = (in_chans, size, size)
        self.feature_info: list[dict[str, Any]] = []
        self.num_features = 0
        self._stages: list[str] = []

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to the last map [N, num_features, h, w]."""

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
        """Map images [N, C, H, W] to logits [N, num_classes]."""
        return self.forward_head(self.forward_features(x))

    @property
    def head_hidden_size(self) -> int:
        """Channels that the classifier sees."""
        return self.num_features

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

    def group_matcher(self, *, coarse: bool = False) -> dict[str, Any]:
        r"""Return which parameters belong together, for a learning rate of each depth.

        Args:
            coarse: one group for each stage, not for each block.

        Returns:
            Patterns of parameter names as `timm.models.group_parameters` takes them: "stem", and
            "blocks" in order. Parameters that match none are the head's.

        Example:
            >>> from senet.models import CifarResNet
            >>> CifarResNet(depth=20).group_matcher(coarse=True)["blocks"][0]
            ('^layer1\\.', (0,))
        """
        patterns: list[tuple[str, tuple[int, ...]]] = []
        for name, child in self.named_children():
            if name in (*self._stem, self._last) or next(child.parameters(), None) is None:
                continue
            inside = [""] if coarse or not isinstance(child, Stage) else list(child._modules)
            for block in inside:
                path = f"{name}.{block}." if block else f"{name}."
                patterns.append((f"^{re.escape(path)}", (len(patterns),)))
        stem = "|".join(map(re.escape, self._stem))
        return {"stem": rf"^(?:{stem})\.", "blocks": patterns}

    def set_grad_checkpointing(
        self,
        enable: bool = True,  # noqa: FBT001, FBT002 - timm's callers give it by position
    ) -> None:
        """Compute the blocks of the stages again in the backward, instead of keeping their maps.

        Args:
            enable: False keeps them again.

        Raises:
            ConfigError: the network has no stages of blocks.
        """
        stages = [child for child in self.children() if isinstance(child, Stage)]
        if not stages:
            raise ConfigError(
                f"checkpointing needs stages of blocks, and {type(self).__name__} has none; "
                "wrap its modules with torch.utils.checkpoint instead"
            )
        for stage in stages:
            stage.checkpointed = enable

    def set_drop_path(self, rate: float) -> None:
        """Leave out whole branches in training: `rate` in the last block, ever less before it.

        Args:
            rate: in [0, 1); it rises linearly from 0 in the first block, as timm's
                `drop_path_rate` does.

        Raises:
            ConfigError: a rate that cannot be, or a network without residual blocks.
        """
        check_drop_path(rate)
        blocks = [each for each in self.modules() if isinstance(each, ResidualBlock)]
        if rate and not blocks:
            raise ConfigError(
                f"drop_path_rate needs residual blocks, and {type(self).__name__} has none whose "
                "branch can be left out; leave drop_path_rate out, or take a ResNet"
            )
        for place, block in enumerate(blocks):
            block.drop_path_rate = rate * place / max(1, len(blocks) - 1)

    def _add_map(self, module: str, channels: int, reduction: int) -> None:
        """Say that the output of a module is the last map of a resolution."""
        self.feature_info.append({"module": module, "num_chs": channels, "reduction": reduction})
        self.num_features = channels

    def _add_stage(
        self,
        name: str,
        block: Block,
        *,
        blocks: int,
        channels: int,
        stride: int = 2,
        reduction: int,
    ) -> None:
        """Add blocks in order, of which the first changes the size and the channels."""
        stage = Stage()
        for _ in range(blocks):
            stage.append(block(self.num_features, channels, 1 if len(stage) else stride))
            self.num_features = channels
        self.add_module(name, stage)
        self._stages.append(name)
        self._add_map(name, channels, reduction)

    def _add_stages(
        self, block: Block, depths: Sequence[int], widths: Sequence[int], *, finest: int = 1
    ) -> None:
        """Add the stages `layer1`, `layer2`, ..., of which each but the first halves the map."""
        for number, (blocks, channels) in enumerate(zip(depths, widths, strict=True)):
            self._add_stage(
                f"layer{number + 1}",
                block,
                blocks=blocks,
                channels=channels,
                stride=2 if number else 1,
                reduction=finest * 2**number,
            )

    def _forward_stages(self, x: Tensor) -> Tensor:
        for name in self._stages:
            x = self.get_submodule(name)(x)
        return x

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
