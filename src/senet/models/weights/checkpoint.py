"""Which of the tensors in a checkpoint are the network's: the entry, and the average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from senet.errors import DataError
from senet.models.weights.inert import StandIn

__all__ = ["Weights", "weights_in"]

# Where training programs keep the weights, and an average of them (EMA), in the order in which
# these are looked for.
_CURRENT = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params",
            "module")  # fmt: skip
_AVERAGED = ("state_dict_ema", "model_ema", "model_ema_state_dict", "ema_state_dict", "ema_model",
             "params_ema", "ema")  # fmt: skip
# Programs that write the average where the weights are looked for, and the weights aside: an entry
# by which they are known, and that of the weights. MMEngine; lightning's WeightAveraging.
_SWAPPED = {"message_hub": "ema_state_dict", "averaging_state": "current_model_state"}


class Weights(NamedTuple):
    """The tensors of a checkpoint that were taken.

    Attributes:
        state: name -> tensor.
        taken: what was taken, where there was a choice; else "".
    """

    state: dict[str, Tensor]
    taken: str = ""


def weights_in(checkpoint: Any, path: Path, *, ema: bool = True) -> Weights:
    """Return the network's tensors in what a training program saved.

    Args:
        checkpoint: what `read_torch` returned: a state dict, a mapping with one, a whole module.
        path: of the file, for the message.
        ema: take the average of the weights, where there is one beside them.

    Raises:
        DataError: there is no state dict.
    """
    averaged, current = _entries(checkpoint)
    chosen = averaged if averaged and (ema or not current) else current
    if not chosen:
        what = [*checkpoint][:5] if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise DataError(f"{path} must hold a state dict, names with tensors, but holds {what}")
    state = _tensors(checkpoint[chosen] if chosen != "." else checkpoint)
    if not averaged:
        return Weights(state)
    if not current:
        return Weights(state, f"{averaged}, an average of the weights; there are no others")
    if chosen == averaged:
        return Weights(
            state, f"{averaged}, an average of the weights; ema=False takes {current} instead"
        )
    return Weights(state, f"{current}; ema=True takes {averaged}, an average of the weights")


def _entries(checkpoint: Any) -> tuple[str, str]:
    """Return the entries with an average and with the weights; ".": it is a state dict itself."""
    if not isinstance(checkpoint, Mapping):
        return "", ""
    for known, aside in _SWAPPED.items():
        if known in checkpoint and _tensors(checkpoint.get(aside)):
            return "state_dict", aside
    averaged, current = (
        next((name for name in names if _tensors(checkpoint.get(name))), "")
        for names in (_AVERAGED, _CURRENT)
    )
    if not averaged and not current and _tensors(checkpoint):
        return "", "."
    return averaged, current


def _tensors(value: Any, depth: int = 1) -> dict[str, Tensor]:
    """Return the tensors of a state dict, of a whole module, or of an entry one level deeper."""
    if isinstance(value, StandIn) and "_modules" in value:
        return dict(_of_module(value))
    if not isinstance(value, Mapping):
        return {}
    tensors = {str(name): each for name, each in value.items() if isinstance(each, Tensor)}
    if tensors:
        return tensors
    deeper = (value.get(name) for name in _CURRENT) if depth else ()
    return next((state for each in deeper if (state := _tensors(each, depth - 1))), {})


def _of_module(
    module: Mapping[str, Any], prefix: str = "", above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    """Yield the state dict of a module that was saved as an object, out of its attributes."""
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _attribute(module, kind):
            if isinstance(tensor, Tensor):
                yield f"{prefix}{name}", tensor
    for name, child in _attribute(module, "_modules"):
        if isinstance(child, StandIn) and id(child) not in above:  # a file may hold anything
            yield from _of_module(child, f"{prefix}{name}.", (*above, id(child)))


def _attribute(module: Mapping[str, Any], name: str) -> list[tuple[Any, Any]]:
    value = module.get(name)
    return [*value.items()] if isinstance(value, Mapping) else []
