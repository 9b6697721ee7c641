"""Whether a residual network puts strides and padding where the weights were trained.

The tensors of the two layouts have the same names and shapes, so that a wrong choice would load and
then misclassify.
"""

from __future__ import annotations

from torch import nn

from senet.errors import DataError
from senet.models.weights.keys import is_legacy
from senet.models.weights.source import Source

__all__ = ["check_layout"]

# (padding, rounded up) of the stem's pool
_POOLS = {"authors": (0, True), "torchvision": (1, False)}


def check_layout(model: nn.Module, source: Source) -> None:
    """Compare a residual network with the layout that the weights were trained in.

    Networks of other kinds, and weights whose layout is not known, pass.

    Raises:
        DataError: strides or pooling are elsewhere; the model is as before.
    """
    basic = _module(model, "layer1.0.conv2") and not _module(model, "layer1.0.conv3")
    if source.kind == "legacy" and basic and not is_legacy(model.state_dict()):
        raise DataError(
            f"{source.name} must fit this {type(model).__name__}, but is for an activation in "
            "front of each SE block, as timm's legacy_seresnet18 and 34 have it; build one of these"
        )
    if source.layout not in _POOLS:
        return
    wrong = [*_wrong_stride(model, source.layout), *_wrong_pool(model, source.layout)]
    if wrong:
        raise DataError(
            f"{source.name} was trained in the layout {source.layout!r}, and this "
            f"{type(model).__name__} has {' and '.join(wrong)}: its outputs would be wrong. Build "
            f"the network with layout={source.layout!r}"
        )


def _wrong_stride(model: nn.Module, layout: str) -> list[str]:
    first, second = (_module(model, f"layer2.0.conv{i}") for i in (1, 2))
    if not isinstance(first, nn.Conv2d) or not isinstance(second, nn.Conv2d):
        return []
    if first.kernel_size != (1, 1) or 2 not in (first.stride[0], second.stride[0]):
        return []
    on_first = layout == "authors" and second.groups == 1
    if (first.stride[0] == 2) == on_first:
        return []
    return [f"the stride of its bottlenecks on the {'3x3' if on_first else 'first 1x1'}"]


def _wrong_pool(model: nn.Module, layout: str) -> list[str]:
    pool = next((m for m in model.modules() if isinstance(m, nn.MaxPool2d)), None)
    if pool is None or _module(model, "layer1.0") is None:
        return []
    padding = pool.padding if isinstance(pool.padding, int) else pool.padding[0]
    if (padding, pool.ceil_mode) == _POOLS[layout]:
        return []
    return [f"the stem's pool with padding {padding}"]


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
