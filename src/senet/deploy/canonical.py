"""The SE block as every engine knows it: mean, two 1x1 convolutions, a gate, one product.

    s = gate(W2 act(W1 mean(x) + b1) + b2)    [N, C, 1, ...]
    y = s * x                                 [N, C, *spatial]

Blocks of this project, of timm and of torchvision are read into this form. The gates of this
project that are 1 at 0 become the paper's:

    2 sigmoid(p)        the 2 doubles the map in front, and W1 / 2 undoes that in the squeeze
    1 + tanh(p)         is 2 sigmoid(2 p)
    relu(1 + p)         is relu(p) with 1 added to b2

Derivation: docs/deploy.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.blocks import SqueezeExcitation
from senet.blocks.squeeze_excitation import hooked
from senet.deploy.folding import affine_of, merge_affine, qualified_name
from senet.functional import squeeze
from senet.ops.modes import transformed, watched
from senet.padding import own_positions

__all__ = [
    "CanonicalSE",
    "CanonicalSEAdd",
    "ChannelGate",
    "Excitation",
    "GatedConv",
    "GatedConvAdd",
    "read_excitation",
]

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_GATES: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "hard_sigmoid": nn.Hardsigmoid,
}


@final
class ChannelGate(nn.Module):
    """The gate s [N, C, 1, ...] of a map [N, C_in, *spatial], or of each image's own positions.

    The two layers are convolutions, as the patterns of engines have it. PyTorch computes them as
    products of matrices, which takes less time on [N, C] numbers.
    """

    def __init__(self, layers: nn.Sequential, spatial: int, squeeze: str) -> None:
        super().__init__()
        self.layers = layers
        self.dims = [list(range(2, 2 + spatial))]
        self.maximum = squeeze == "max"

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            own = own_positions(x)
            if own is not None:
                z = squeeze(x, "max" if self.maximum else "avg", mask=own).to(x.dtype)
                return self._excite(z.view(*z.shape, *(1,) * (x.dim() - 2)))
        for dims in self.dims:
            x = x.amax(dims, keepdim=True) if self.maximum else x.mean(dims, keepdim=True)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._excite(x)
        return self.layers(x)  # type: ignore[no-any-return]

    @torch.jit.unused
    def _excite(self, z: Tensor) -> Tensor:
        """The gate of a squeeze [N, C_in, 1, ...]."""
        if not _as_matrices(z) or hooked(self.layers, *self.layers):
            return self.layers(z)  # type: ignore[no-any-return]
        s = z.flatten(1)
        for layer in self.layers:
            if type(layer) in _CONVOLUTIONS.values():
                s = F.linear(s, layer.weight.flatten(1), layer.bias)  # type: ignore[operator, arg-type]
            else:
                s = layer(s)
        return s.view(*s.shape, *z.shape[2:])


def _as_matrices(z: Tensor) -> bool:
    """Whether products of matrices are wanted: no other engine will read them, and they are faster.

    Of one image in float32 they are not, on CPUs: PyTorch's convolution is the same product then,
    with fewer calls around it.
    """
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting()
    if not isinstance(z, Tensor) or torch._C._is_tracing():
        return False
    return z.shape[0] > 1 or z.dtype != torch.float32


def _rescaled(y: Tensor, s: Tensor, conv: nn.Module, identity: Tensor | None = None) -> Tensor:
    """Return s * y, or identity + s * y; in the memory of y where nobody else has it.

    That may be a hook of `conv`, which has returned y, a derivative, or a transform.
    """
    out = None
    if not (
        torch.compiler.is_compiling() or torch.is_grad_enabled() or transformed() or watched(y)
    ):
        fits = identity is None or (identity.dtype, identity.shape) == (y.dtype, y.shape)
        out = y if fits and s.dtype == y.dtype and not hooked(conv) else None
    if identity is None:
        return torch.mul(y, s, out=out)
    return torch.addcmul(identity, y, s, out=out)


class CanonicalSE(nn.Module):
    """y = s * x; the mean and the product read the same tensor."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Return the rescaled map."""
        return x * self.gate(x)  # type: ignore[no-any-return]


@final
class CanonicalSEAdd(CanonicalSE):
    """y = identity + s * x, product and addition in one pass."""

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:  # type: ignore[override]
        """Return the sum."""
        return torch.addcmul(identity, x, self.gate(x))


class GatedConv(nn.Module):
    """y = s * conv(x) of a 1x1 convolution, with s computed from x.

    mean(W x + b) = W mean(x) + b: the squeeze reads the smaller map, and does not wait for the
    convolution.
    """

    def __init__(self, conv: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Return the rescaled output of the convolution."""
        y, s = self.conv(x), self.gate(x)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return _rescaled(y, s, self.conv)
        return y * s  # type: ignore[no-any-return]


@final
class GatedConvAdd(GatedConv):
    """y = identity + s * conv(x), product and addition in one pass."""

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:  # type: ignore[override]
        """Return the sum."""
        y, s = self.conv(x), self.gate(x)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return _rescaled(y, s, self.conv, identity)
        return torch.addcmul(identity, y, s)


@final
class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, s: Tensor) -> Tensor:
        return self.factor * s


@final
@dataclass(frozen=True)
class Excitation:
    """The parameters of a block, in float64. `factor` multiplies the gate."""

    weight1: Tensor | None  # [h, C]; None: there is one layer, the second
    bias1: Tensor | None  # [h]
    act: nn.Module
    weight2: Tensor  # [C, h]
    bias2: Tensor | None  # [C]
    gate: nn.Module
    squeeze: str = "avg"
    factor: float = 1.0

    def constant(self) -> Tensor | None:
        """The gate [C], if it does not depend on the image."""
        if self.weight2.count_nonzero():
            return None
        p = self.weight2.new_zeros(len(self.weight2)) if self.bias2 is None else self.bias2
        return self.factor * self.gate(p)  # type: ignore[no-any-return]

    def scaled(self) -> Excitation:
        """The same gate without its factor, computed from a map that is `factor` times as large."""
        if self.weight1 is None:
            return replace(self, weight2=self.weight2 / self.factor, factor=1.0)
        return replace(self, weight1=self.weight1 / self.factor, factor=1.0)

    def through(self, weight: Tensor, bias: Tensor | None) -> Excitation:
        """The same gate from the input of a linear map W [C, C_in], b: W1 W, and b1 + W1 b."""
        names = ("weight2", "bias2") if self.weight1 is None else ("weight1", "bias1")
        first, shift = (getattr(self, name) for name in names)
        if bias is not None:
            shift = first @ bias + (0 if shift is None else shift)
        return replace(self, **dict(zip(names, (first @ weight, shift), strict=True)))

    def build(self, spatial: int, like: Tensor) -> ChannelGate:
        """Return the gate as a module, for maps with so many spatial dimensions."""
        layers: list[nn.Module] = []
        if self.weight1 is not None:
            layers += [_layer(self.weight1, self.bias1, spatial, like), self.act]
        layers += [_layer(self.weight2, self.bias2, spatial, like), self.gate]
        if self.factor != 1:
            layers.append(_Times(self.factor))
        return ChannelGate(nn.Sequential(*layers).eval(), spatial, self.squeeze)


def _layer(weight: Tensor, bias: Tensor | None, spatial: int, like: Tensor) -> nn.Module:
    """A 1x1 convolution, with a bias: the patterns by which engines know the block have one.

    OpenVINO takes an addition of zeros away, so a bias of zeros is one of the smallest numbers.
    """
    conv = _CONVOLUTIONS[spatial](weight.shape[1], weight.shape[0], 1, device="meta")
    conv.weight = nn.Parameter(weight.reshape(*weight.shape, *(1,) * spatial).to(like))
    if bias is None or not bias.count_nonzero():
        bias = torch.full_like(weight[:, 0], torch.finfo(torch.float32).tiny)
    conv.bias = nn.Parameter(bias.to(like))
    return conv


def _parameters(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Weight [out, in] and bias [out] of a linear layer or 1x1 convolution, in float64."""
    bias = None if layer.bias is None else layer.bias.detach().double()
    return layer.weight.detach().double().flatten(1), bias


def _own(block: SqueezeExcitation) -> Excitation | None:
    if block.squeeze == "none":
        return None
    weight2, bias2 = _parameters(block.fc2)
    if block.squeeze == "constant":  # so is what the second layer returns
        layers = copy.deepcopy(block).double()
        bias2 = layers.fc2(torch.relu(layers.fc1(layers.descriptor.detach()[None])))[0].detach()
        weight2 = torch.zeros_like(weight2)
    kind, factor = block.gate.excitation, 1.0
    if block.centered and kind == "relu":
        bias2 = 1 + (weight2.new_zeros(len(weight2)) if bias2 is None else bias2)
    elif block.centered:
        factor = 2.0
        if kind == "tanh":
            kind, weight2, bias2 = "sigmoid", 2 * weight2, None if bias2 is None else 2 * bias2
    gate = _GATES[kind]()
    return Excitation(
        *_parameters(block.fc1), nn.ReLU(), weight2, bias2, gate, block.squeeze, factor
    )


def _two_layers(first: str, act: str, second: str, gate: str) -> Callable[[Any], Excitation | None]:
    """A reader of blocks that keep their parts under these names."""

    def read(block: Any) -> Excitation | None:
        if getattr(block, "add_maxpool", False):
            return None
        layer = copy.deepcopy(getattr(block, first)).double()
        norm = getattr(block, "bn", nn.Identity())
        if type(norm) is not nn.Identity:
            affine = affine_of(norm)
            if affine is None or type(affine.rest) is not nn.Identity:
                return None
            merge_affine(layer, affine.a, affine.c)
        parts = (copy.deepcopy(getattr(block, name)) for name in (act, gate))
        inner, outer = parts
        return Excitation(*_parameters(layer), inner, *_parameters(getattr(block, second)), outer)

    return read


def _one_layer(block: Any) -> Excitation | None:
    if block.add_maxpool:
        return None
    return Excitation(None, None, nn.Identity(), *_parameters(block.fc), copy.deepcopy(block.gate))


_READERS: dict[str, Callable[[Any], Excitation | None]] = {
    "senet.blocks.squeeze_excitation.SqueezeExcitation": _own,
    "timm.layers.squeeze_excite.EffectiveSEModule": _one_layer,
    "timm.layers.squeeze_excite.SEModule": _two_layers("fc1", "act", "fc2", "gate"),
    "timm.models._efficientnet_blocks.SqueezeExcite": _two_layers(
        "conv_reduce", "act1", "conv_expand", "gate"
    ),
    "timm.models.senet.SEModule": _two_layers("fc1", "relu", "fc2", "sigmoid"),
    "torchvision.ops.misc.SqueezeExcitation": _two_layers(
        "fc1", "activation", "fc2", "scale_activation"
    ),
}


def is_block(module: nn.Module) -> bool:
    """Whether a module is an SE block of a class that is known."""
    return qualified_name(module) in _READERS


def read_excitation(block: nn.Module) -> Excitation | None:
    """Return the parameters of an SE block; None where it is of no form that can be rewritten."""
    reader = _READERS.get(qualified_name(block))
    return None if reader is None else reader(block)
