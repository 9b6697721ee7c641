"""All that a training run depends on: which network, which images, which recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

from torch import nn

from senet.errors import ConfigError
from senet.insertion import SEConfig
from senet.models import create_model, input_size
from senet.schema import Config, option
from senet.training.config.data_config import DataConfig
from senet.training.config.train_config import TrainConfig

__all__ = ["LOGGERS", "Model", "ModelSpec", "RunConfig"]

# name: where a run's numbers go beside its own files, by Lightning's logger of this name
LOGGERS = {
    "csv": "a table, OUT/csv",
    "tensorboard": "TensorBoard's files, OUT/tensorboard",
    "wandb": "Weights & Biases; with WANDB_MODE=offline in OUT/wandb alone",
}

# A name that `senet.create_model` takes, or a function of (num_classes, in_chans).
Model = str | Callable[[int, int], nn.Module]


def _model(_name: str, value: Any) -> Any:
    if not isinstance(value, str) and not callable(value):
        raise ConfigError(f"model must be a name, got {value!r}")
    return value


@dataclass(frozen=True)
class ModelSpec(Config):
    """Which network.

    Attributes:
        model: a name that `senet.create_model` takes; or a function of (num_classes, in_chans) that
            builds the plain network, with weights of its own if it likes.
        weights: what the network starts from: a file, or a name, that `senet.load_weights` takes,
            or the folder of a run; None for random weights.
        se: the SE blocks: of an SE network of this project (None: as its name says), or inserted
            into any other network (None: not at all).

    Raises:
        ConfigError: a value that cannot be.
    """

    model: Model = option("se_resnet20", check=_model)
    weights: str | None = option(None, what="a name or a file")
    se: SEConfig | None = option(None, blank=partial(SEConfig, init="paper"))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values; a function becomes its name."""
        return {**super().to_dict(), "model": self.name}

    @property
    def name(self) -> str:
        """The name of the network, or of the function that builds it."""
        return self.model if isinstance(self.model, str) else self.model.__name__

    def input_size(self) -> tuple[int, int, int]:
        """Return (C, H, W) that the network is made for."""
        return input_size(self.model if isinstance(self.model, str) else self.model(2, 3))

    def create(self, *, num_classes: int, in_chans: int, **options: Any) -> nn.Module:
        """Return the network as its library makes it."""
        if isinstance(self.model, str):
            return create_model(self.model, num_classes=num_classes, in_chans=in_chans, **options)
        if options.get("drop_path_rate"):
            raise ConfigError(
                f"drop_path_rate needs a network by its name; build it into {self.name} itself"
            )
        return self.model(num_classes, in_chans)


@final
@dataclass(frozen=True)
class RunConfig(ModelSpec):
    """What `senet train` trains, on what, and how.

    Attributes:
        data: which images.
        train: the recipe.
        logger: "csv", "tensorboard" or "wandb" for the numbers of each epoch and the gates beside
            the run's own files; see LOGGERS.

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: a choice that there is not.

    Example:
        >>> from senet.schema import differences, overridden
        >>> changed = overridden(RunConfig(), {"lr": 0.2, "data.image_size": 8})
        >>> changed.train.lr, changed.data.image_size
        (0.2, 8)
        >>> differences(RunConfig(), overridden(RunConfig(), {"lr": 0.2}))
        {'train.lr': (0.1, 0.2)}
    """

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    logger: str | None = option(None, choices=LOGGERS)
