"""What images a set of weights expects: part of the weights, and easily lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from senet.errors import DataError, InputError, optional
from senet.insertion.facts import facts_of, keep_fact
from senet.schema import Record

__all__ = [
    "CAFFE",
    "CIFAR",
    "IMAGENET",
    "Preprocessing",
    "of_timm",
    "of_torchvision",
    "preprocessing",
    "remember",
]

_FACT, _TIMM = "preprocessing", "pretrained_cfg"


@final
@dataclass(frozen=True)
class Preprocessing(Record):
    """How an image becomes the input of a network: resize, crop, [0, 1], (x - mean) / std.

    Attributes:
        mean: of red, green, blue, on the scale [0, 1].
        std: likewise.
        crop: height and width of the centre crop.
        resize: length of the shorter side before the crop; None: the image is not resized.
        interpolation: "bilinear" or "bicubic".

    Example:
        >>> CAFFE.resize, CAFFE.crop, round(CAFFE.mean[0] * 255)
        (256, 224, 123)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int = 224
    resize: int | None = 256
    interpolation: str = "bilinear"

    def transform(self) -> Callable[[Any], Any]:
        """Return torchvision transforms from a PIL image (or a uint8 tensor) to a tensor.

        Raises:
            MissingPackageError: torchvision is not installed.
        """
        import torch

        with optional("Preprocessing.transform"):
            from torchvision.transforms import v2

        steps: list[Any] = [v2.ToImage()]
        if self.resize is not None:
            mode = v2.InterpolationMode(self.interpolation)
            steps.append(v2.Resize(self.resize, interpolation=mode, antialias=True))
        steps += [
            v2.CenterCrop(self.crop),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(self.mean), list(self.std)),
        ]
        return v2.Compose(steps)  # type: ignore[no-any-return]

    def for_timm(self) -> dict[str, Any]:
        """Return the fields of timm's `pretrained_cfg` that say the same."""
        return {
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
            "crop_pct": self.crop / (self.resize or self.crop),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Return what `to_dict` gave.

        Raises:
            DataError: the fields are others.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError(
                f"a preprocessing must have the fields "
                f"{[field.name for field in dataclasses.fields(cls)]}, has {list(fields)}"
            ) from error


# The authors' Caffe models take BGR in 0..255 minus (104, 117, 123), not divided by a standard
# deviation. With the first convolution's channels turned around, this is the same on RGB in [0, 1].
CAFFE = Preprocessing((123 / 255, 117 / 255, 104 / 255), (1 / 255, 1 / 255, 1 / 255))
# Of Cadene's and torchvision's networks (their first weights), and most of timm's.
IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Of the published CIFAR-10 networks in the names of models/nets/cifar.py.
CIFAR = dataclasses.replace(IMAGENET, crop=32, resize=None)


def remember(model: nn.Module, images: Preprocessing) -> None:
    """Keep with a network what its weights expect; timm's `pretrained_cfg` is changed too."""
    keep_fact(model, _FACT, images.to_dict())
    described = getattr(model, _TIMM, None)
    if isinstance(described, dict):
        setattr(model, _TIMM, {**described, **images.for_timm()})


def preprocessing(model: nn.Module) -> Preprocessing:
    """Return what images the weights of a network expect.

    Args:
        model: a network after `senet.load_weights`; or one of timm's, by its `pretrained_cfg`.

    Raises:
        InputError: nothing is known, because the weights are random or their file does not say.

    Example:
        >>> preprocessing(nn.Linear(1, 1))
        Traceback (most recent call last):
        ...
        senet.errors.InputError: what images this Linear expects is not known: ...
    """
    known = facts_of(model).get(_FACT)
    if known is not None:
        return Preprocessing.from_dict(known)
    described = getattr(model, _TIMM, None)
    if isinstance(described, Mapping) and described.get("mean"):
        return of_timm(described)
    raise InputError(
        f"what images this {type(model).__name__} expects is not known: its weights are random, "
        "or their file does not say; use the mean and the deviation it was trained with"
    )


def of_timm(described: Mapping[str, Any]) -> Preprocessing:
    """Return what a `pretrained_cfg` of timm says."""
    size = int(described.get("input_size", (3, 224, 224))[-1])
    share = float(described.get("crop_pct") or 0.875)
    return Preprocessing(
        tuple(described["mean"]),
        tuple(described["std"]),
        crop=size,
        resize=int(size / share),
        interpolation=str(described.get("interpolation") or "bicubic"),
    )


def of_torchvision(entry: Any) -> Preprocessing:
    """Return the evaluation images of an entry in torchvision's list of weights."""
    used = entry.transforms()
    return Preprocessing(
        tuple(used.mean),
        tuple(used.std),
        crop=used.crop_size[0],
        resize=used.resize_size[0],
        interpolation=used.interpolation.value,
    )
