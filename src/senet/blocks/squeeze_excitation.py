"""The SE block as a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from senet import functional, ops
from senet.blocks.host import as_leaf
from senet.errors import ConfigError, InputError, unknown_name
from senet.padding import own_positions

__all__ = ["SQUEEZES", "Dense", "Gate", "SqueezeExcitation", "hooked"]

SQUEEZES = (*functional.SQUEEZES, "constant")

# What a constant descriptor starts with; Huang et al., section 4.
_DESCRIPTOR = 0.1

# Names under which other libraries keep the two layers: timm's SqueezeExcite, and the Linear form
# that many ports use. timm's SEModule and torchvision call them fc1 and fc2, as we do.
_ALIASES = {"conv_reduce.": "fc1.", "conv_expand.": "fc2.", "fc.0.": "fc1.", "fc.2.": "fc2."}
# The types of parameters, unless a library has replaced them by tensors of its own.
_PLAIN = {nn.Parameter, Tensor, type(None)}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(nn_module, f"_global{kind}") for kind in _HOOKS]


def hooked(*modules: nn.Module) -> bool:
    """Say whether one of these modules must be called as a module.

    That is where it has a hook, its own or one on all modules, unless the hook says
    `only_looks = True`; or where its forward was replaced on the object.
    """
    for hooks in _GLOBAL_HOOKS:
        if hooks and not _only_look(hooks):
            return True
    for module in modules:
        own = module.__dict__
        if "forward" in own:
            return True
        forward = own["_forward_pre_hooks"] or own["_forward_hooks"]
        some = forward or own["_backward_hooks"] or own["_backward_pre_hooks"]
        if some and not all(_only_look(own[kind]) for kind in _HOOKS):
            return True
    return False


def _only_look(hooks: Mapping[int, Any]) -> bool:
    return all(getattr(hook, "only_looks", False) for hook in hooks.values())


@final
class Dense(nn.Linear):
    """A linear map over the channels, computed in the type of its input.

    So a model in half precision computes its excitations in float32: the weights are converted to
    the type of the squeeze, not the squeeze to theirs.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch.nn.Linear
        """Return W input + b; input [N, C] or [N, C, *spatial]."""
        return functional.dense(input, self.weight, self.bias)


@final
class Gate(nn.Module):
    """The gate s of an SE block, from the pre-activation z; see `senet.functional.gate`.

    A module of its own, so that it can be hooked (its output is the excitation [N, C]), replaced or
    quantised.
    """

    def __init__(self, excitation: str = "sigmoid", *, centered: bool = False) -> None:
        super().__init__()
        if excitation not in functional.EXCITATIONS:
            raise unknown_name("excitation", excitation, functional.EXCITATIONS)
        self.excitation = excitation
        self.centered = centered

    def forward(self, z: Tensor) -> Tensor:
        """Return s, of the shape of z."""
        return functional.gate(z, self.excitation, centered=self.centered)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.excitation}, centered" if self.centered else self.excitation


@final
class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: y = s * x, s = gate(W2 relu(W1 squeeze(x) + b1) + b2).

    Shapes: x [N, C, *spatial] with any number of spatial dimensions; y the same, in the type and
        memory format of x.
    Squeeze and gate are computed in float32 (float64 for float64), also under autocast and for
    half-precision maps.

    Parameters are `fc1.weight` [h, C], `fc1.bias` [h], `fc2.weight` [C, h], `fc2.bias` [C]. A state
    dict that holds them as 1x1 convolutions ([h, C, 1, 1]), or under the names
    `conv_reduce`/`conv_expand` (timm) or `fc.0`/`fc.2`, loads as it is.

    Args:
        channels: C.
        reduction: the paper's r; the hidden width is h = max(1, C // r).
        hidden: the exact hidden width instead.
        squeeze: "avg" (the paper's), "max" (table 11), "none" (NoSqueeze, table 16: the gate keeps
            the resolution) or "constant": a learned `descriptor` [C] in place of the squeeze, so
            that the gate does not depend on the image. Behind a batch norm it is another gamma: it
            costs no pass over memory, and `senet.deploy` leaves nothing of it.
        excitation: "sigmoid" (the paper's), "tanh", "relu" (table 12) or "hard_sigmoid".
        bias: biases in both layers: on in the authors' released models, off in the paper's
            ablations.
        centered: move the gate so that it is exactly 1 at z = 0 and start with a zero last layer:
            the new block is the identity to the last bit, and learns from the first step. Off, the
            gate is the paper's and starts near 0.5.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ConfigError: a width or ratio that cannot be.
        UnknownNameError: no such squeeze or excitation.

    Source: J. Hu et al., "Squeeze-and-Excitation Networks", sections 3 and 6. The constant: Z.
        Huang et al., "Stripe Observation Guided Inference Cost-free Attention Mechanism", ECCV
        2024.

    Example:
        >>> se = SqueezeExcitation(64)
        >>> se(torch.randn(2, 64, 7, 7)).shape
        torch.Size([2, 64, 7, 7])
        >>> x = torch.randn(2, 64, 100)  # one spatial dimension
        >>> torch.equal(SqueezeExcitation(64, centered=True)(x), x)
        True
    """

    _version = 1
    warm = False
    """Whether maps of all sizes are worth compiled code, since `senet.warm_up` was called."""

    def __init__(
        self,
        channels: int,
        reduction: float = 16,
        *,
        hidden: int | None = None,
        squeeze: str = "avg",
        excitation: str = "sigmoid",
        bias: bool = True,
        centered: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if squeeze not in SQUEEZES:
            raise unknown_name("squeeze", squeeze, SQUEEZES)
        width = functional.hidden_channels(channels, reduction)  # checks both
        width = width if hidden is None else hidden
        if width < 1:
            raise ConfigError(
                f"hidden must be at least 1, got {hidden}; "
                "leave it out to have max(1, C // reduction)"
            )
        self.squeeze = squeeze
        if squeeze == "constant":
            self.descriptor = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.fc1 = Dense(channels, width, bias=bias, device=device, dtype=dtype)
        self.fc2 = Dense(width, channels, bias=bias, device=device, dtype=dtype)
        self.gate = Gate(excitation, centered=centered)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters: He's normal initialisation, zero biases.

        A centred block starts as the identity, W2 = 0. A constant descriptor starts at 0.1, and the
        rows of W1 get the sign with which it reaches every hidden unit: one that is 0 for all
        images would never learn.
        """
        nn.init.kaiming_normal_(self.fc1.weight, nonlinearity="relu")
        if self.squeeze == "constant":
            nn.init.constant_(self.descriptor, _DESCRIPTOR)
            with torch.no_grad():
                weight = self.fc1.weight
                weight.copy_(torch.where(weight.sum(1, keepdim=True) < 0, -weight, weight))
        if self.centered:
            nn.init.zeros_(self.fc2.weight)
        else:
            nn.init.kaiming_normal_(self.fc2.weight, nonlinearity="relu")
        for layer in (self.fc1, self.fc2):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @property
    def channels(self) -> int:
        """C."""
        return self._modules["fc1"].in_features  # type: ignore[union-attr, return-value]

    @property
    def hidden(self) -> int:
        """The hidden width h."""
        return self.fc1.out_features

    @property
    def centered(self) -> bool:
        """Whether the gate is 1 at z = 0."""
        return bool(getattr(self.gate, "centered", False))

    def excite(self, z: Tensor) -> Tensor:
        """Return the gate s [N, C] of a squeeze z [N, C] (or both [N, C, *spatial])."""
        return self.gate(self.fc2(torch.relu(self.fc1(z))))  # type: ignore[no-any-return]

    def constant_gate(self, images: int = 1) -> Tensor:
        """Return the gate [images, C] of a block with squeeze="constant", every row the same.

        In float32, or float64 for a descriptor in float64.
        """
        dtype = torch.promote_types(self.descriptor.dtype, torch.float32)
        return self.excite(self.descriptor.to(dtype).expand(images, -1))

    def excitation(self, *around: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the excitation as `senet.ops` takes it.

        That is `TwoLayers` if both layers and the gate are the block's own and have no hook, nor
        the modules `around`, else the method `excite`.
        """
        children: Any = self._modules
        first, second, gate = children["fc1"], children["fc2"], children["gate"]
        if type(first) is not Dense or type(second) is not Dense or type(gate) is not Gate:
            return self.excite
        if hooked(first, second, gate, *around) or "excite" in self.__dict__:
            return self.excite
        own, others = first._parameters, second._parameters
        weights: tuple[Any, ...]
        try:
            weights = own["weight"], own["bias"], others["weight"], others["bias"]
        except KeyError:  # a replica has them elsewhere
            weights = first.weight, first.bias, second.weight, second.bias
        if not _PLAIN.issuperset(map(type, weights)):
            return self.excite
        # what TwoLayers(...) does, without a function of Python's in between
        layers: Any = tuple.__new__(ops.TwoLayers, (*weights, gate.excitation, gate.centered))
        return layers  # type: ignore[no-any-return]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return s * x.

        Args:
            x: [N, C, *spatial].
            mask: [N, *spatial] or [N, 1, *spatial], True where a position counts in the squeeze
                (padded inputs); inside `senet.mask_padding` what that says, if not given.

        Raises:
            InputError: x has not C channels, or the mask does not fit.
        """
        if (node := as_leaf(self, x)) is not None:
            return node
        if x.dim() < 2 or x.shape[1] != self.channels:
            raise InputError(
                f"this SE block needs [N, {self.channels}, *spatial], got shape {list(x.shape)}"
            )
        if mask is None:
            mask = own_positions(x)
            if self.squeeze == "avg":
                return ops.recalibrate(x, self.excitation(), mask=mask, warm=self.warm)
        with functional.no_autocast(x):
            if self.squeeze == "constant":
                return functional.scale(x, self.constant_gate(len(x)))
            z = functional.squeeze(x, self.squeeze, mask=mask)
            return functional.scale(x, self.excite(z))

    def __prepare_scriptable__(self) -> nn.Module:
        """Say to `torch.jit.script`, which asks this of every module, that it cannot compile one.

        Raises:
            InputError: always.
        """
        raise InputError(
            "torch.jit.script takes networks without SE blocks only, got one that has some; use "
            "torch.export.export(model, (x,)) or torch.jit.trace(model, x), or senet.remove first"
        )

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.channels}, hidden={self.hidden}" + (
            "" if self.squeeze == "avg" else f", squeeze={self.squeeze}"
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for theirs, ours in _ALIASES.items():
            for kind in ("weight", "bias"):
                if prefix + theirs + kind in state_dict:
                    state_dict[prefix + ours + kind] = state_dict.pop(prefix + theirs + kind)
        for name in ("fc1.weight", "fc2.weight"):
            weight = state_dict.get(prefix + name)
            if isinstance(weight, Tensor) and weight.dim() > 2 and weight[0, 0].numel() == 1:
                state_dict[prefix + name] = weight.flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
