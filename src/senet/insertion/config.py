"""What to insert and where: a frozen, checked, JSON-able configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from senet.blocks.squeeze_excitation import SQUEEZES
from senet.errors import ConfigError
from senet.functional import EXCITATIONS, hidden_channels
from senet.schema import Config, option

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


def _selector(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str) or callable(value):
        return value
    if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise ConfigError(
            f"{name} must be a glob over module paths, several, or a function of the site, "
            f"got {value!r}"
        )
    return tuple(value)


def _stages(_name: str, given: Any) -> tuple[int, ...] | None:
    """Return the stages as a tuple; one number alone is taken as well."""
    if given is None:
        return None
    several = isinstance(given, Sequence | set | frozenset | range)
    stages = tuple(given) if several else (given,)
    if not stages or not all(type(stage) is int for stage in stages):
        raise ConfigError(
            f"stages must be whole numbers such as (2, 3), got {given!r}; None takes all stages"
        )
    return stages


@final
@dataclass(frozen=True)
class SEConfig(Config):
    """Which SE blocks to insert, and where.

    Attributes:
        reduction: the paper's r; the hidden width is max(1, C // r).
        hidden: the exact hidden width, the same for all blocks, instead of `reduction`.
        squeeze: "avg", "max", "none" or "constant"; see `senet.SqueezeExcitation`.
        excitation: "sigmoid", "tanh", "relu" or "hard_sigmoid".
        bias: biases in the two layers (on in the authors' released models, off in the paper's
            ablations).
        integration: "standard", "pre", "post", "identity" or "inner" (figure 5, table 15), or
            "inner_act" (as MobileNetV3 and EfficientNet); "identity" and those two need residual
            units.
        stages: only these stages; stage s has maps 2**s times smaller than the input, the paper's
            stage 2 to 5 of a ResNet. None takes all.
        include: only these sites: a glob over module paths ("layer4.*"), several of them, or a
            function of the `Site`. None takes all, but those in the heads of a detector, which "*"
            takes too.
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
        >>> SEConfig.from_dict(SEConfig(reduction=4).to_dict()).reduction
        4
    """

    reduction: int | float = option(
        16, above=0, what="a positive number", advice="the paper's is 16"
    )
    hidden: int | None = option(None, least=1, advice="or leave it out and set reduction")
    squeeze: str = option("avg", choices=SQUEEZES)
    excitation: str = option("sigmoid", choices=EXCITATIONS)
    bias: bool = True
    integration: str = option("standard", choices=INTEGRATIONS)
    stages: tuple[int, ...] | None = option(None, check=_stages)
    include: Selector = option(None, check=_selector)
    exclude: Selector = option(None, check=_selector)
    existing: str = option("skip", choices=("skip", "add"))
    init: str = option("identity", choices=("identity", "paper"))

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
