"""The stages of a network that says nothing of them, from one run: torchvision's networks."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from senet.errors import ConfigError
from senet.models.registry import input_size

__all__ = ["by_resolution"]


@final
class _Layers(nn.Sequential):
    """The layers of a network in order, with timm's description of its maps."""

    feature_info: list[dict[str, Any]]


def by_resolution(network: nn.Module) -> _Layers:
    """Return the layers of a network in order, with a `feature_info` of one entry per resolution.

    The network runs once on an image of noise, in evaluation mode, and each layer must be given
    what the one before it returned. A sequence of layers of several resolutions is taken apart.

    Args:
        network: maps images [N, C, H, W]; its modules are used, not copied.

    Raises:
        ConfigError: its layers do not run one behind the other, or there are no maps [N, C, H, W].
    """
    training = {module: module.training for module in network.modules()}
    for each in training:
        each.training = False  # not eval(), which may do more: merge layers
    try:
        with torch.no_grad():
            layers, width = _layers(network)
    finally:
        for each, mode in training.items():
            each.training = mode
    if not layers:
        raise _refused(network)
    info: dict[int, dict[str, Any]] = {}
    for call in layers:
        reduction = round(width / call.output.shape[-1])
        module = call.name.replace(".", "_")
        info[reduction] = {
            "num_chs": call.output.shape[1],
            "reduction": reduction,
            "module": module,
        }
    chain = _Layers(OrderedDict((call.name.replace(".", "_"), call.layer) for call in layers))
    chain.feature_info = sorted(info.values(), key=lambda each: int(each["reduction"]))
    chain.training = network.training
    return chain


def _refused(network: nn.Module) -> ConfigError:
    return ConfigError(
        "a backbone needs a network with feature_info, or one whose layers run one behind the "
        f"other on maps [N, C, H, W], and this {type(network).__name__} is neither; take one of "
        "the project's networks, or of timm's"
    )


class _Call(NamedTuple):
    """One call of a layer."""

    name: str
    layer: nn.Module
    given: Tensor
    output: Tensor


def _layers(network: nn.Module) -> tuple[list[_Call], int]:
    """Return the layers that run one behind the other, and the width of the image."""
    like = next(network.parameters(), torch.zeros(()))
    noise = torch.randn(1, *input_size(network), generator=torch.Generator().manual_seed(0))
    image = noise.to(like)
    calls: list[_Call] = []
    several = nn.Sequential | nn.ModuleList
    sequences = [name for name, child in network.named_children() if isinstance(child, several)]
    handles = []
    for name, layer in network.named_modules():
        parent, _, rest = name.rpartition(".")
        if rest and parent in ("", *sequences):
            handles += _watched(name, layer, calls)
    try:
        network(image)
    except Exception as error:  # a network raises anything where it does not take images
        raise _refused(network) from error
    finally:
        for handle in handles:
            handle.remove()
    called = {call.name for call in calls}
    apart = {name for name in sequences if name not in called or len(_sizes(calls, name)) > 1}
    layers: list[_Call] = []
    shown = image
    for call in calls:
        parent = call.name.rpartition(".")[0]
        if call.name in apart or (parent and parent not in apart):
            continue
        fits = call.given.shape == shown.shape and torch.equal(call.given, shown)
        if not fits or not _is_map(call):
            break
        layers.append(call)
        shown = call.output
    return layers, image.shape[-1]


def _watched(name: str, layer: nn.Module, calls: list[_Call]) -> list[Any]:
    """Return the hooks that add each call of a layer to `calls`; values as they were then."""
    given: list[Any] = []

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        given[:] = [x.clone() for x in inputs[:1] if isinstance(x, Tensor)]

    def behind(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if given and isinstance(output, Tensor):
            calls.append(_Call(name, layer, given[0], output.clone()))

    return [layer.register_forward_pre_hook(before), layer.register_forward_hook(behind)]


def _sizes(calls: list[_Call], sequence: str) -> set[torch.Size]:
    """Return the resolutions of the maps that the layers of a sequence return."""
    inside = [call for call in calls if call.name.rpartition(".")[0] == sequence]
    return {call.output.shape[2:] for call in inside if _is_map(call)}


def _is_map(call: _Call) -> bool:
    """Whether a layer of convolutions returned [N, C, H, W]; the image is a square."""
    shape = call.output.shape
    square = len(shape) == 4 and shape[2] == shape[3] > 1
    return square and not isinstance(call.layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
