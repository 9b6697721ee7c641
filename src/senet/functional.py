"""The mathematics of squeeze-and-excitation, once, in plain PyTorch: what every op must equal.

A block sees a map U [N, C, *spatial], any number of spatial dimensions, and computes

    z = squeeze(U)                       [N, C]      the channel descriptor (global average pooling)
    s = gate(W2 relu(W1 z + b1) + b2)    [N, C]      the excitation
    Y = s * U                            [N, C, *spatial]

Source: Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-Excitation Networks", sections 3 and 6.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.errors import ConfigError, InputError, unknown_name

__all__ = [
    "ACTIVATIONS",
    "EXCITATIONS",
    "SQUEEZES",
    "batch_norm_se",
    "excite",
    "gate",
    "hidden_channels",
    "recalibrate",
    "scale",
    "squeeze",
    "squeeze_excite",
]

SQUEEZES = ("avg", "max", "none")

# The devices that have autocast. Asked here, since torch.compile of torch 2.11 cannot ask.
AUTOCAST = frozenset(filter(torch.amp.is_autocast_available, ("cpu", "cuda", "mps", "xpu", "hpu")))

# name: (the paper's gate, table 12; the centred gate). That is exactly 1 at z = 0 and has a slope
# there: a block whose last layer is zero is the identity to the last bit and still learns.
EXCITATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sigmoid": (torch.sigmoid, lambda z: 2.0 * torch.sigmoid(z)),
    "tanh": (torch.tanh, lambda z: 1.0 + torch.tanh(z)),
    "relu": (torch.relu, lambda z: torch.relu(1.0 + z)),
    "hard_sigmoid": (F.hardsigmoid, lambda z: 2.0 * F.hardsigmoid(z)),
}

# What may stand between a batch norm and the block.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "silu": lambda y: y * torch.sigmoid(y),
    "hardswish": F.hardswish,
}
_NOTHING = nullcontext()


def hidden_channels(channels: int, reduction: float = 16) -> int:
    """Return the width of the excitation's hidden layer: max(1, floor(channels / reduction)).

    This is the one rule for small C in the whole library: no rounding to multiples of 8, never
    zero. An exact width is given as `hidden` wherever `reduction` is taken.

    Args:
        channels: C, at least 1.
        reduction: the paper's r, any positive number.

    Example:
        >>> hidden_channels(256), hidden_channels(608), hidden_channels(8)
        (16, 38, 1)
    """
    if channels < 1:
        raise ConfigError(f"channels must be at least 1, got {channels}")
    if not reduction > 0:
        raise ConfigError(
            f"reduction must be positive, got {reduction}; to set the width itself give hidden="
        )
    return max(1, int(channels // reduction))


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of x, as squeeze and gate need it."""
    kind = x.device.type
    if kind in AUTOCAST and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return _NOTHING


def check_map(x: Tensor) -> None:
    """Raise unless x is a feature map [N, C, *spatial]."""
    if x.dim() < 2:
        raise InputError(
            f"a feature map must be [N, C, *spatial], got shape {list(x.shape)}; "
            "add the batch dimension with x[None]"
        )
    if not x.is_floating_point():
        raise InputError(
            f"a feature map must be of a floating-point type, got {x.dtype}; "
            "convert it with x.float()"
        )


def _masked_squeeze(x: Tensor, mode: str, mask: Tensor, dtype: torch.dtype) -> Tensor:
    keep = mask.unsqueeze(1) if mask.dim() == x.dim() - 1 else mask
    full = (x.shape[0], 1, *x.shape[2:])
    if keep.dim() != x.dim() or any(m not in (1, n) for m, n in zip(keep.shape, full, strict=True)):
        raise InputError(
            f"mask must be [N, *spatial] or [N, 1, *spatial] for a map of shape {list(x.shape)}, "
            f"got {list(mask.shape)}; True (or 1) marks the positions that count"
        )
    keep = keep.to(dtype=torch.bool, device=x.device).expand(full)
    if x.dim() == 2:  # no spatial dimension: one position
        x, keep = x[..., None], keep[..., None]
    spatial = tuple(range(2, x.dim()))
    # masked_fill, not a product: padding may hold NaN or infinity
    if mode == "max":
        largest = x.masked_fill(~keep, -torch.inf).amax(spatial).to(dtype)
        return largest.masked_fill(~keep.flatten(2).any(2), 0.0)
    count = keep.sum(spatial).clamp_min(1)  # [N, 1]
    return x.masked_fill(~keep, 0.0).sum(spatial, dtype=dtype) / count


def squeeze(x: Tensor, mode: str = "avg", *, mask: Tensor | None = None) -> Tensor:
    """Squeeze a feature map to one number per channel.

    avg: z_c = mean over the spatial positions of x_c (equation 2 of the paper); max: the maximum
        (table 11);
    none: z = x, nothing is pooled (the NoSqueeze control of table 16).
    Sums accumulate in float32 for half-precision maps (a 512x512 map of 1000s overflows float16),
    in float64 for float64.

    Args:
        x: [N, C, *spatial], any number of spatial dimensions, also none at all.
        mode: "avg", "max" or "none".
        mask: [N, *spatial] or [N, 1, *spatial], True where a position counts. A sample without any
            position gives 0. Without effect for "none", where every position stands for itself.

    Returns:
        [N, C] in float32 (float64 for float64 input); for "none" [N, C, *spatial] in that type.

    Raises:
        InputError: the map or the mask has the wrong shape or type.
        UnknownNameError: no such mode.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0, 9.0]]])  # [N=1, C=1, L=3]
        >>> squeeze(x).item(), squeeze(x, mask=torch.tensor([[1, 1, 0]])).item()
        (4.0, 1.5)
    """
    check_map(x)
    if mode not in SQUEEZES:
        raise unknown_name("squeeze", mode, SQUEEZES)
    acc_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if mask is not None and mode != "none":
        return _masked_squeeze(x, mode, mask, acc_dtype)
    if mode == "none" or x.dim() == 2:
        return x.to(acc_dtype)
    spatial = tuple(range(2, x.dim()))
    return x.mean(spatial, dtype=acc_dtype) if mode == "avg" else x.amax(spatial).to(acc_dtype)


def gate(z: Tensor, excitation: str = "sigmoid", *, centered: bool = False) -> Tensor:
    """Turn the excitation's last pre-activation into the gate s.

    The paper's gates: sigmoid(z), tanh(z), relu(z), and hard_sigmoid(z) = relu6(z + 3) / 6. With
    `centered` they are moved so that s = 1 exactly at z = 0, with a non-zero slope: 2 sigmoid(z), 1
    + tanh(z), relu(1 + z), 2 hard_sigmoid(z).

    Raises:
        UnknownNameError: no such excitation.

    Example:
        >>> gate(torch.zeros(1)).item(), gate(torch.zeros(1), centered=True).item()
        (0.5, 1.0)
    """
    if excitation not in EXCITATIONS:
        raise unknown_name("excitation", excitation, EXCITATIONS)
    return EXCITATIONS[excitation][centered](z)


def dense(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map the channels of z linearly, in its type; weight [out, in] or a 1x1 convolution's."""
    weight = (weight.flatten(1) if weight.dim() > 2 else weight).to(z.dtype)
    bias = None if bias is None else bias.to(z.dtype)
    if z.dim() == 2:
        return F.linear(z, weight, bias)
    return F.linear(z.movedim(1, -1), weight, bias).movedim(-1, 1)


def excite(
    z: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    excitation: str = "sigmoid",
    centered: bool = False,
) -> Tensor:
    """Excite: s = gate(W2 relu(W1 z + b1) + b2), equation 3 of the paper, of z's shape and type.

    Args:
        z: the squeeze, [N, C] (or [N, C, *spatial] where nothing was squeezed).
        weight1: [h, C] or, as a 1x1 convolution, [h, C, 1, 1].
        bias1: [h] or None.
        weight2: [C, h] or [C, h, 1, 1].
        bias2: [C] or None.
        excitation: see `gate`.
        centered: see `gate`.

    Example:
        >>> w1, w2 = torch.zeros(1, 4), torch.zeros(4, 1)
        >>> excite(torch.ones(2, 4), w1, None, w2, None).unique().item()
        0.5
    """
    hidden = torch.relu(dense(z, weight1, bias1))
    return gate(dense(hidden, weight2, bias2), excitation, centered=centered)


def scale(x: Tensor, s: Tensor) -> Tensor:
    """Rescale the channels: y = s * x, equation 4 of the paper, in the type and memory format of x.

    Args:
        x: [N, C, *spatial].
        s: [N, C], or of the shape of x.

    Raises:
        InputError: the gate fits neither the channels nor the map.

    Example:
        >>> scale(torch.ones(1, 2, 1, 1), torch.tensor([[0.25, 2.0]])).flatten().tolist()
        [0.25, 2.0]
    """
    if s.shape != x.shape[: s.dim()] or s.dim() not in (2, x.dim()):
        fitting = f"[N, C] = {list(x.shape[:2])} or of the map's shape"
        raise InputError(f"a gate must be {fitting}, got {list(s.shape)}")
    return x * s.to(x.dtype).reshape(*s.shape, *(1,) * (x.dim() - s.dim()))


def squeeze_excite(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    squeeze_mode: str = "avg",
    excitation: str = "sigmoid",
    centered: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """The whole block: y = s * x with s = excite(squeeze(x)).

    Arguments as in `squeeze` and `excite`. Squeeze and gate are in float32, also under autocast.

    Example:
        >>> w1, w2 = torch.zeros(1, 4), torch.zeros(4, 1)
        >>> squeeze_excite(torch.ones(2, 4, 3, 3), w1, None, w2, None).unique().item()
        0.5
    """
    with no_autocast(x):
        z = squeeze(x, squeeze_mode, mask=mask)
        s = excite(z, weight1, bias1, weight2, bias2, excitation=excitation, centered=centered)
        return scale(x, s)


def add_act(y: Tensor, identity: Tensor | None, activation: str | None) -> Tensor:
    """Return activation(y + identity), the end of a residual branch; either may be None."""
    if activation not in (None, "relu"):
        raise unknown_name("activation", activation, ("relu",))
    if identity is not None:
        y = y + identity
    return y if activation is None else torch.relu(y)


def recalibrate(
    x: Tensor,
    excitation: Callable[[Tensor], Tensor],
    *,
    identity: Tensor | None = None,
    activation: str | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The block with any excitation: y = activation(s * x + identity), s = excitation(squeeze(x)).

    Args:
        x: [N, C, *spatial].
        excitation: maps the squeeze [N, C] (float32, or float64) to the gate [N, C].
        identity: what is added, of the shape of x, or None.
        activation: what stands at the end: "relu" or None.
        mask: as in `squeeze`.
    """
    with no_autocast(x):
        s = excitation(squeeze(x, mask=mask))
        return add_act(scale(x, s), identity, activation)


def batch_norm_se(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    excitation: Callable[[Tensor], Tensor],
    *,
    inner_activation: str | None = None,
    identity: Tensor | None = None,
    activation: str | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    mask: Tensor | None = None,
) -> Tensor:
    """Batch norm with an SE block behind it, and what may stand between and behind the two.

    v = inner_activation(BN(x)), s = excitation(squeeze(v)), y = activation(s * v + identity), one
    step after the other. `senet.ops.batch_norm_se` computes the same in batch norm's own passes.

    `x`, the running statistics, which training updates in place, `weight` (gamma), `bias` (beta),
    `training`, `momentum` and `eps` are those of `torch.nn.functional.batch_norm`; `excitation`,
    `identity`, `activation` and `mask` those of `recalibrate`; `inner_activation` is a name of
    `ACTIVATIONS` or None. An unknown name is an UnknownNameError.

    Example:
        >>> x = torch.randn(2, 3, 4, 4)
        >>> y = batch_norm_se(x, None, None, None, None, torch.ones_like, training=True)
        >>> torch.equal(y, F.batch_norm(x, None, None, training=True))
        True
    """
    if inner_activation is not None and inner_activation not in ACTIVATIONS:
        raise unknown_name("activation", inner_activation, ACTIVATIONS)
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if inner_activation is not None:
        y = ACTIVATIONS[inner_activation](y)
    return recalibrate(y, excitation, identity=identity, activation=activation, mask=mask)
