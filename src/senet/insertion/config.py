"""What to insert and where: a frozen, checked, JSON-able configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from senet.errors import ConfigError, unknown_name
from senet.functional import EXCITATIONS, SQUEEZES, hidden_channels

__all__ = ["INTEGRATIONS", "SEConfig", "Selector"]

# A choice of sites: one glob over module paths, several, or a function of the Site.
Selector = str | Sequence[str] | Callable[[Any], bool] | None

# name: where the block goes (figure 5 and table 15 of the paper)
INTEGRATIONS = {
    "standard": (
        "behind the last layer of the residual branch, before the addition; "
        "behind a concatenation of branches; behind the activation of a plain convolution"
    ),
    "pre": "before the residual branch: the branch sees the rescaled input, the identity does not",
    "post": "behind the addition and its activation",
    "identity": "on the identity connection, parallel to the residual branch",
    "inner": (
        "inside the residual branch, behind its last spatial (for example 3x3) convolution "
        "and that one's norm"
    ),
    "inner_act": (
        "as inner, behind the activation as well: where MobileNetV3 and EfficientNet have SE"
    ),
}

_CHOICES: dict[str, Sequence[str]] = {
    "squeeze": SQUEEZES,
    "excitation": tuple(EXCITATIONS),
    "integration": tuple(INTEGRATIONS),
    "existing": ("skip", "add"),
    "init": ("identity", "paper"),
}


@final
@dataclass(frozen=True)
class SEConfig:
    """Which SE blocks to insert, and where.

    Attributes:
        reduction: the paper's r; the hidden width is max(1, C // r).
        hidden: the exact hidden width, the same for all blocks, instead of `reduction`.
        squeeze: "avg", "max" or "none"; see `senet.SqueezeExcitation`.
        excitation: "sigmoid", "tanh", "relu" or "hard_sigmoid".
        bias: biases in the two layers (on in the authors' released models, off in the paper's
            ablations).
        integration: "standard", "pre", "post", "identity" or "inner" (figure 5, table 15), or
            "inner_act" (as MobileNetV3 and EfficientNet); "identity" and those two need residual
            units.
        stages: only these stages; stage s has maps 2**s times smaller than the input, the paper's
            stage 2 to 5 of a ResNet. None takes all.
        include: only these sites: a glob over module paths ("layer4.*"), several of them, or a
            function of the `Site`.
        exclude: not these sites, in the same form.
        existing: what to do in a branch that has an SE block (or a gate of its kind) already:
            "skip" it or "add" a second one.
        init: "identity": a centred gate (2 sigmoid(z), ...) with a zero last layer: the changed
            model computes the same, bit for bit, and the blocks learn from the first step. "paper":
            the paper's gate, which starts near 0.5.

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: a name that is not among the choices.

    Example:
        >>> SEConfig(reduction=8, stages=(3, 4)).hidden_for(256)
        32
    """

    reduction: float = 16
    hidden: int | None = None
    squeeze: str = "avg"
    excitation: str = "sigmoid"
    bias: bool = True
    integration: str = "standard"
    stages: tuple[int, ...] | None = None
    include: Selector = None
    exclude: Selector = None
    existing: str = "skip"
    init: str = "identity"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown_name(name, str(getattr(self, name)), choices)
        if not isinstance(self.reduction, int | float) or not self.reduction > 0:
            raise ConfigError(
                f"reduction must be a positive number, got {self.reduction!r}; the paper's is 16"
            )
        if self.hidden is not None and (not isinstance(self.hidden, int) or self.hidden < 1):
            raise ConfigError(
                f"hidden must be a whole number of at least 1, got {self.hidden!r}; "
                "or leave it out and set reduction"
            )
        for name in ("include", "exclude"):
            self._check_selector(name)
        if self.stages is not None:
            object.__setattr__(self, "stages", _stages(self.stages))

    def _check_selector(self, name: str) -> None:
        value = getattr(self, name)
        if value is None or isinstance(value, str) or callable(value):
            return
        if not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
            raise ConfigError(
                f"{name} must be a glob over module paths, several, or a function of the site, "
                f"got {value!r}"
            )
        object.__setattr__(self, name, tuple(value))

    def hidden_for(self, channels: int) -> int:
        """Return the hidden width of a block with so many channels."""
        return hidden_channels(channels, self.reduction) if self.hidden is None else self.hidden

    def block_options(self) -> dict[str, Any]:
        """Return the options of `senet.SqueezeExcitation` but for its widths, device and type."""
        return {
            "squeeze": self.squeeze,
            "excitation": self.excitation,
            "bias": self.bias,
            "centered": self.init == "identity",
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values; a function as selector becomes its name."""
        fields = dataclasses.asdict(self)
        for name in ("include", "exclude"):
            if callable(fields[name]):
                fields[name] = f"<function {getattr(fields[name], '__qualname__', fields[name])}>"
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> SEConfig:
        """Return the configuration of `to_dict`; an unknown field is an error.

        Example:
            >>> SEConfig.from_dict(SEConfig(reduction=4).to_dict()).reduction
            4
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                raise unknown_name("SEConfig field", name, known)
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**fields)


def _stages(given: Any) -> tuple[int, ...]:
    """The stages as a tuple; one number alone is taken as well."""
    several = isinstance(given, Sequence | set | frozenset | range)
    stages = tuple(given) if several else (given,)
    if not stages or not all(isinstance(stage, int) for stage in stages):
        raise ConfigError(
            f"stages must be whole numbers such as (2, 3), got {given!r}; None takes all stages"
        )
    return stages
