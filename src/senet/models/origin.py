"""Where a network came from: the call of `senet.create_model` that built it, kept with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from senet.errors import ConfigError, DataError
from senet.insertion.facts import facts_of, keep_fact
from senet.schema import Record

__all__ = ["Origin", "keep_origin", "origin_of"]

_FACT = "network"


@final
@dataclass(frozen=True)
class Origin(Record):
    """The arguments of `senet.create_model`, JSON-able.

    Attributes:
        name: with its library before it, where that is not this project.
        num_classes: number of logits.
        in_chans: channels of the image.
        se: fields of `senet.SEConfig`, or None.
        layout: of the residual networks, or None.
    """

    name: str
    num_classes: int
    in_chans: int = 3
    se: Mapping[str, Any] | None = None
    layout: str | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Origin:
        """Return what `to_dict` gave.

        Raises:
            DataError: the fields are others.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            raise DataError(
                f"a network's origin must have the fields "
                f"{[field.name for field in dataclasses.fields(cls)]}, has {list(fields)}"
            ) from error


def keep_origin(model: nn.Module, origin: Origin) -> nn.Module:
    """Keep with a network how it was built; return the network."""
    keep_fact(model, _FACT, origin.to_dict())
    return model


def origin_of(model: nn.Module) -> Origin:
    """Return how a network was built, with the number of logits that it has now.

    Raises:
        ConfigError: `senet.create_model` did not build it.

    Example:
        >>> from senet.models import create_model
        >>> origin_of(create_model("se_resnet20", se={"reduction": 4}))
        Origin(name='se_resnet20', num_classes=10, in_chans=3, se={'reduction': 4}, layout=None)
    """
    known = facts_of(model).get(_FACT)
    if known is None:
        raise ConfigError(
            f"the network must be one that senet.create_model built, so that its name can be "
            f"written down, and this {type(model).__name__} is not; create_model also builds "
            "torchvision's and timm's networks; any other goes to disk with senet.save"
        )
    origin = Origin.from_dict(known)
    classes = getattr(model, "num_classes", None)
    if isinstance(classes, int) and classes != origin.num_classes:
        return dataclasses.replace(origin, num_classes=classes)
    return origin
