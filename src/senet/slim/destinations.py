"""Where a constant per channel goes that multiplies a map: exact algebra on the weights around it.

    behind a batch norm         gamma <- s gamma, beta <- s beta
    behind a convolution        W <- s W, b <- s b (rows)
    behind an activation f with f(s x) = s f(x) for s >= 0 (ReLU): in front of it
    in front of a convolution   W <- W s (columns)
    else                        a factor per channel stays

The data flow says what stands where, so it holds for any code around the block.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn
from torch.nn.utils import parametrize

from senet.blocks import SEBatchNorm1d, SEBatchNorm2d, SEBatchNorm3d, SESyncBatchNorm
from senet.blocks.squeeze_excitation import hooked
from senet.deploy.folding import merge_affine
from senet.insertion.graft import base_of, grafts_of
from senet.insertion.operators import CONVOLUTIONS, NORMS
from senet.insertion.trace import Flow, Value

__all__ = ["Destination", "destination", "host_destination", "put"]

BATCH_NORM, CONVOLUTION, NEXT, FACTOR = "batch norm", "convolution", "next convolution", "factor"

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PADDED = "timm.layers.conv2d_same.Conv2dSame"
_WITH_SE = (SEBatchNorm1d, SEBatchNorm2d, SEBatchNorm3d, SESyncBatchNorm)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NORM_WITH_ACT = "timm.layers.norm_act.BatchNormAct2d"
_HOMOGENEOUS = {"relu", "relu_", "leaky_relu", "leaky_relu_"}
_SAME = {"_to_copy", "alias", "clone", "contiguous", "detach"}


@final
@dataclass(frozen=True)
class Destination:
    """Where a constant goes.

    Attributes:
        kind: "batch norm", "convolution" (its rows), "next convolution" (its columns) or "factor".
        path: of the module; "" for a factor, which stays.
    """

    kind: str
    path: str = ""

    def __str__(self) -> str:
        """Return what a plan shows."""
        return f"{self.kind} {self.path}" if self.path else "a factor per channel"


def host_destination(model: nn.Module, path: str) -> Destination | None:
    """Return the batch norm that a block is part of and stands behind, if it takes the constant.

    Args:
        model: the network.
        path: of the block.
    """
    parent, _, name = path.rpartition(".")
    host = model.get_submodule(parent)
    marks = grafts_of(host)
    if marks:
        behind = any(m.child == name and m.site.where == "output" for m in marks)
        # the block on the input, and one on an identity that is added, are not scaled with it
        fits = behind and len(marks) == 1
    else:
        fits = name == "se" and isinstance(host, _WITH_SE)
    return Destination(BATCH_NORM, parent) if fits and _takes(host, NORMS) else None


def _takes(module: nn.Module, op: frozenset[str]) -> bool:
    """Whether a module is a batch norm (or a convolution) that computes what its class says."""
    base = base_of(module)
    kinds = (*_NORMS, *_WITH_SE) if op is NORMS else (*_CONVOLUTIONS, *_TRANSPOSED)
    known = base in kinds or _name(base) in (_NORM_WITH_ACT, _PADDED)
    weight: Any = module._parameters.get("weight")
    own = known and weight is not None and not parametrize.is_parametrized(module)
    return own and not (hooked(module) and not grafts_of(module))


def _name(kind: type[nn.Module]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def destination(
    flow: Flow,
    modules: Mapping[str, nn.Module],
    span: tuple[Value, Value],
    inside: Collection[Value],
    *,
    positive: bool,
) -> Destination:
    """Return where the constant of a product goes.

    Args:
        flow: of the network.
        modules: of the network, by path.
        span: the map that is multiplied, and the product.
        inside: values that lead to the gate only.
        positive: whether the constant is nowhere negative.
    """
    value, product = span
    others = {c for c in value.consumers if c is not product and c not in inside}
    while not others and value not in flow.outputs:
        for ops, kind in ((NORMS, BATCH_NORM), (CONVOLUTIONS, CONVOLUTION)):
            if value.op in ops and _alone(flow, modules, value, ops):
                return Destination(kind, value.scope)
        passes = value.op in _SAME or (positive and value.op in _HOMOGENEOUS)
        if not passes or len(value.parents) != 1:
            break
        (before,) = value.parents
        others = {c for c in before.consumers if c is not value}
        value = before
    return _ahead(flow, modules, product, positive=positive)


def _ahead(
    flow: Flow, modules: Mapping[str, nn.Module], value: Value, *, positive: bool
) -> Destination:
    """Return the convolution that alone reads a product, if there is one."""
    while len(value.consumers) == 1 and value not in flow.outputs:
        (reader,) = value.consumers
        if reader.op in CONVOLUTIONS and reader.parents == (value,):
            if _alone(flow, modules, reader, CONVOLUTIONS):
                return Destination(NEXT, reader.scope)
            break
        if not (reader.op in _SAME or (positive and reader.op in _HOMOGENEOUS)):
            break
        value = reader
    return Destination(FACTOR)


def _alone(flow: Flow, modules: Mapping[str, nn.Module], value: Value, ops: frozenset[str]) -> bool:
    """Whether a value was made by a module that is called once, with weights of its own."""
    module = modules.get(value.scope)
    if module is None or not _takes(module, ops) or len(flow.calls_of[value.scope]) != 1:
        return False
    weight = module._parameters["weight"]
    holders = [m for m in modules.values() if any(p is weight for p in m._parameters.values())]
    return len({id(m) for m in holders}) == 1


def put(module: Any, kind: str, constant: Tensor) -> None:
    """Change the weights of a module so that its output, or its input, is scaled by channel.

    The parameters are new ones: others may share the old.

    Args:
        module: a batch norm or a convolution.
        kind: of the destination.
        constant: [C], float64.
    """
    flags = {name: p.requires_grad for name, p in module._parameters.items() if p is not None}
    s = constant.to(module.weight.device)
    if kind == CONVOLUTION:
        merge_affine(module, s)
    elif kind == BATCH_NORM:
        for name in flags:
            old = module._parameters[name]
            setattr(module, name, nn.Parameter((old.detach().double() * s).to(old)))
    else:
        old = module.weight
        module.weight = nn.Parameter((old.detach().double() * _columns(module, s)).to(old))
    for name, flag in flags.items():
        module._parameters[name].requires_grad_(flag)


def _columns(conv: Any, s: Tensor) -> Tensor:
    """Return the factors of a convolution's weight that scale its input."""
    ones = (1,) * (conv.weight.dim() - 2)
    if isinstance(conv, _TRANSPOSED):  # [in, out / groups, ...]
        return s.view(-1, 1, *ones)
    groups = s.view(conv.groups, -1)  # [out, in / groups, ...]
    return groups.repeat_interleave(conv.out_channels // conv.groups, 0).view(
        conv.out_channels, -1, *ones
    )
