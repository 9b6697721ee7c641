"""Folding on a copy of a network, and whether the copy computes what it must."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from senet import ops
from senet.analysis.gate_flow import evaluating
from senet.analysis.record import Planned
from senet.errors import InsertionError
from senet.insertion.folded import take_out
from senet.insertion.guard import settle
from senet.insertion.reading import tensors
from senet.slim.destinations import FACTOR, Destination, put

__all__ = ["Constants", "copied", "fold_in", "folding_error", "scores"]

# by path of a block: its constant [C] in float64, and where it goes
Constants = Mapping[str, tuple[Tensor, Destination]]

# The largest relative difference that is taken for rounding; the algebra itself is exact, as
# float64 shows.
_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}


def copied(net: nn.Module, *, share: bool = False) -> nn.Module:
    """Return a copy of a network; `share`: with the same parameters and buffers."""
    held = (*net.parameters(), *net.buffers()) if share else ()
    try:
        return copy.deepcopy(net, {id(tensor): tensor for tensor in held})
    except Exception as error:
        raise InsertionError(
            f"the model must be one that copy.deepcopy can copy, but this {type(net).__name__} is "
            f"not: {error}"
        ) from error


def fold_in(net: nn.Module, constants: Constants) -> nn.Module:
    """Take blocks out of a network, in place, and put their constants where they go.

    Parameters that change are new ones. Returns the network.
    """
    for path, (constant, where) in constants.items():
        parameter = next(net.get_submodule(path).parameters(), None)
        factor = None
        if where.kind == FACTOR:
            factor = constant if parameter is None else constant.to(parameter)
        else:
            put(net.get_submodule(where.path), where.kind, constant)
        take_out(net, path, len(constant), factor)
    settle(net)
    return net


def scores(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the outputs of a network in evaluation, by which it is known again."""
    with torch.no_grad(), evaluating(net), ops.use_backend("reference"):
        return [y for y in tensors(net(x)) if y.is_floating_point()]


def folding_error(
    net: nn.Module, folded: nn.Module, gated: Mapping[str, Tensor], x: Tensor
) -> float:
    """Return the largest difference of the outputs, relative to the largest output.

    Args:
        net: the network as it was.
        folded: the copy.
        gated: the constants of the gates that depended on the image.
        x: images.

    Raises:
        InsertionError: it is more than rounding.
    """
    with evaluating(net), evaluating(folded), ops.use_backend("reference"):
        expected = Planned(net).run(x, replace=gated)[0] if gated else net(x)
        got = folded(x)
    error = 0.0
    for a, b in zip(tensors(expected), tensors(got), strict=True):
        if a.is_floating_point() and a.numel():
            largest = a.abs().max().clamp_min(torch.finfo(a.dtype).tiny)
            error = max(float((a - b).abs().max() / largest), error)  # NaN, if it is one
            if not error <= _ROUNDING.get(a.dtype, 0.1):
                raise InsertionError(
                    "the folded network must compute what the given one does with constant gates, "
                    f"but its output differs by {error:.1e} of the largest; does it read weights "
                    "other than by calling its layers?"
                )
    return error
