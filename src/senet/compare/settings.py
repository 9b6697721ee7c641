"""What a comparison was asked for, in the form in which its results keep it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from senet.errors import ConfigError
from senet.insertion import SEConfig
from senet.models import create_model, input_size
from senet.training import DataConfig, TrainConfig

__all__ = ["Model", "Settings", "differences"]

# A name that `senet.create_model` takes, or a function of (num_classes, in_chans).
Model = str | Callable[[int, int], nn.Module]


@final
@dataclass(frozen=True)
class Settings:
    """All options that the numbers depend on.

    Raises:
        ConfigError: no seed, or a precision that the device does not have.
    """

    model: Model
    data: DataConfig
    train: TrainConfig
    se: SEConfig
    seeds: int
    device: str

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {self.seeds}; 3 give an interval")
        if self.train.precision == "fp16" and self.device == "cpu":
            raise ConfigError("precision 'fp16' needs a GPU, device is cpu; try 'bf16' or 'fp32'")

    @property
    def model_name(self) -> str:
        """The name of the network, or of the function that builds it."""
        return self.model if isinstance(self.model, str) else self.model.__name__

    def input_size(self) -> tuple[int, int, int]:
        """Return (C, H, W) that the network is made for."""
        return input_size(self.model if isinstance(self.model, str) else self.model(2, 3))

    def build(self, *, num_classes: int, in_chans: int) -> nn.Module:
        """Return the plain network."""
        if isinstance(self.model, str):
            return create_model(self.model, num_classes=num_classes, in_chans=in_chans)
        return self.model(num_classes, in_chans)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON-able values, one flat table but for those of SE."""
        data = self.data.to_dict()
        train = self.train.to_dict()
        del train["seed"], train["workers"]  # each run has its own seed; workers change no number
        return {
            "model": self.model_name,
            "data": data.pop("name"),
            "data_root": data.pop("root"),
            **data,
            "seeds": list(range(self.seeds)),
            **train,
            "device": self.device,
            "se": self.se.to_dict(),
        }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the options that differ, as "name was 1, is 2".

    Example:
        >>> differences({"epochs": 10, "se": {"bias": True}}, {"epochs": 20, "se": {"bias": True}})
        ['epochs was 10, is 20']
    """
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = _listed(before.get(name)), _listed(now.get(name))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [f"{name}.{text}" for text in differences(old, new)]
        elif old != new:
            found.append(f"{name} was {old}, is {new}")
    return found


def _listed(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value
