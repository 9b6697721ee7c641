"""What of an image a network is shown in a test: one crop, ten, or all of it at some sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from senet.errors import ConfigError
from senet.schema import Config, option
from senet.training.data.view import View

__all__ = ["METHODS", "Crops"]

# name: what the network is shown; the scores are averaged
METHODS = {
    "single": "the centre crop: shorter side 256, crop 224 in the paper",
    "ten": "the centre and the four corners, and all mirrored",
    "dense": "the whole image, and mirrored, at each of `scales` (of the shorter side)",
}


@final
@dataclass(frozen=True)
class Crops(Config):
    """What the network is shown of a test image.

    Attributes:
        method: "single", "ten" or "dense"; see METHODS.
        crop: height and width of a crop; None for what the network was trained for.
        resize: the shorter side before the crop; None for that of the training's test.
        scales: of "dense": shorter sides. The network must end in a global pooling.

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: no such method.

    Example:
        >>> Crops("dense", scales=(224, 256, 320)).count
        6
    """

    method: str = option("single", choices=METHODS)
    crop: int | None = option(None, least=1)
    resize: int | None = option(None, least=1)
    scales: tuple[int, ...] = option((), least=1, rising=True, what="rising positive numbers")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.method == "dense") != bool(self.scales):
            raise ConfigError(
                f"method 'dense' and scales go together: got {self.method!r} with scales "
                f"{self.scales}"
            )
        if self.crop and self.resize and self.crop > self.resize:
            raise ConfigError(f"crop must be at most resize, {self.resize}, got {self.crop}")

    @property
    def count(self) -> int:
        """How many crops of each image the network sees."""
        return {"single": 1, "ten": 10, "dense": 2 * len(self.scales)}[self.method]

    def sizes(self, view: View) -> tuple[int, int]:
        """Return crop and shorter side for a network that is used to `view`."""
        crop = self.crop or view.seen_in_tests[0]
        return crop, self.resize or max(crop, round(crop / view.crop))

    def transform(self, view: View) -> Callable[[Any], list[Tensor]]:
        """Return the function from a PIL image to its crops, grouped by size: [K, C, H, W]."""
        from torchvision.transforms import v2

        crop, resize = self.sizes(view)
        mode = v2.InterpolationMode(view.interpolation)
        finish = v2.Compose(
            [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(view.mean, view.std)]
        )

        def scaled(image: Any, side: int) -> Any:
            # as timm does in training: no change where the size is right
            right = min(image.size) == side
            return image if right else v2.functional.resize(image, [side], interpolation=mode)

        def shown(image: Any) -> list[Tensor]:
            image = image.convert("L" if view.size[0] == 1 else "RGB")
            if self.method == "dense":
                return [_with_mirrored(finish(scaled(image, side))) for side in self.scales]
            image = scaled(image, resize)
            if self.method == "ten":
                return [torch.stack([finish(each) for each in v2.TenCrop(crop)(image)])]
            return [finish(v2.functional.center_crop(image, [crop, crop]))[None]]

        return shown


def _with_mirrored(image: Tensor) -> Tensor:
    """Return [2, C, H, W]: the image, and its mirror image."""
    return torch.stack([image, image.flip(-1)])
