"""What is known of all gates of a network, and in plain words what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from senet.analysis.gate_statistics import BlockGates
from senet.errors import InputError, unknown_name
from senet.schema import finite

__all__ = ["ESTIMATES", "Gates", "six_digits", "spaced"]

ESTIMATES = (
    *("level", "spread", "image_std", "relative_std", "variance_share"),
    *("low_share", "high_share"),
)


@final
@dataclass(frozen=True, eq=False)
class Gates:
    """The gates of a network by block, class and channel; blocks are in the order of their use.

    Attributes:
        classes: names of the K classes.
        blocks: one entry for each block that ran.
        never_ran: paths of SE blocks in the network that no forward pass reached.
    """

    classes: tuple[str, ...]
    blocks: tuple[BlockGates, ...]
    never_ran: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[int, ...]:
        """Number of images of each class."""
        runs = self.blocks[0].sums
        return tuple((runs.class_images // max(1, self.blocks[0].runs)).tolist())

    def block(self, path: str) -> BlockGates:
        """Return the block of this path.

        Raises:
            UnknownNameError: there is none.
        """
        for each in self.blocks:
            if each.path == path:
                return each
        raise unknown_name("block", path, [each.path for each in self.blocks])

    def class_index(self, name: str) -> int:
        """Return the number of a class.

        Raises:
            UnknownNameError: there is none of this name.
        """
        if name not in self.classes:
            raise unknown_name("class", name, self.classes)
        return self.classes.index(name)

    def means(self) -> dict[str, Tensor]:
        """Return by path the mean gate of each channel over all images, float64 [C]."""
        return {block.path: block.channel_mean for block in self.blocks}

    def merge(self, other: Gates) -> Gates:
        """Return the gates over the images of both; associative and commutative, to the last bit.

        Raises:
            InputError: they are of other classes or blocks.
        """
        if self._what() != other._what():
            raise InputError(
                "gates that are merged must be of the same classes and blocks, got "
                f"{len(self.classes)} classes and {len(self.blocks)} blocks, and "
                f"{len(other.classes)} and {len(other.blocks)}"
            )
        pairs = zip(self.blocks, other.blocks, strict=True)
        return replace(self, blocks=tuple(mine.merge(theirs) for mine, theirs in pairs))

    def all_reduce(self, *, device: torch.device | str = "cpu", group: Any = None) -> Gates:
        """Return the gates over the images of all processes; each of them must call it.

        Args:
            device: that the process group communicates on: "cpu" for gloo, a GPU for NCCL.
            group: the process group; the default one if not given.

        Raises:
            InputError: the processes looked at other classes or blocks; in all of them.
        """
        all_of: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(all_of, self._what(), group)
        if any(each != all_of[0] for each in all_of):
            raise InputError("gates that are added up must be of the same classes and blocks")
        target = torch.device(device)
        blocks = (replace(b, sums=b.sums.all_reduce(target, group)) for b in self.blocks)
        return replace(self, blocks=tuple(blocks))

    def _what(self) -> tuple[Any, ...]:
        return self.classes, tuple((block.path, block.channels) for block in self.blocks)

    def to_dict(
        self, *, max_classes: int = 20, classes: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return the JSON-able form: six significant digits, None for what is not known.

        Args:
            max_classes: of more classes than this only so many, evenly spaced, keep their values
                per channel. The totals over classes are always those of all.
            classes: the names of those that keep them instead.
        """
        keep = spaced(len(self.classes), max_classes)
        if classes is not None:
            keep = [self.class_index(name) for name in classes]
        images = self.images
        return {
            "classes": [self.classes[k] for k in keep],
            "classes_total": len(self.classes),
            "images": [images[k] for k in keep],
            "images_total": sum(images),
            "never_ran": list(self.never_ran),
            "blocks": [_block_dict(block, keep) for block in self.blocks],
        }


def _block_dict(block: BlockGates, keep: list[int]) -> dict[str, Any]:
    specificity, mean = block.specificity, block.mean
    estimates = {name: [six_digits(value) for value in getattr(block, name)] for name in ESTIMATES}
    off, on = block.stuck_channels()
    return {
        "path": block.path,
        "stage": block.stage,
        "channels": block.channels,
        "mean": [_rounded(mean[k]) for k in keep],
        "channel_mean": _rounded(block.channel_mean),
        "channel_std": _rounded(block.channel_std),
        "channel_min": _rounded(block.minimum),
        "channel_max": _rounded(block.maximum),
        "overall_mean": six_digits(block.level.value),
        "overall_std": six_digits(block.spread.value),
        "between_class_std": six_digits(block.between_class_std),
        "within_class_std": six_digits(block.within_std.mean().item()),
        **estimates,
        "scale": block.scale,
        "off_channels": off,
        "on_channels": on,
        "diverged": block.diverged,
        "histogram": block.histogram.tolist(),
        "eta2": six_digits(specificity.mean),
        "eta2_by_chance": six_digits(specificity.chance.mean),
        "eta2_beyond_chance": six_digits(specificity.beyond_chance),
        "specific_share": six_digits(specificity.above),
        "channel_eta2": _rounded(specificity.eta2),
        "channel_eta2_chance_std": _rounded(specificity.chance.std),
        "channel_probability": _rounded(specificity.probability),
        "selectivity": six_digits(block.selectivity.nanmean().item()),
        "selectivity_by_chance": six_digits(block.selectivity_by_chance.nanmean().item()),
        "channel_selectivity": _rounded(block.selectivity),
        "channel_selectivity_by_chance": _rounded(block.selectivity_by_chance),
    }


def spaced(total: int, at_most: int) -> list[int]:
    """Return at most so many indices of range(total), evenly spaced, both ends among them.

    Example:
        >>> spaced(9, 3), spaced(2, 3)
        ([0, 4, 8], [0, 1])
    """
    shown = min(total, at_most)
    return [round(i * (total - 1) / max(1, shown - 1)) for i in range(shown)]


def six_digits(value: float) -> float | None:
    """Return a number with six significant digits; None for one that is not finite."""
    return finite(float(f"{value:.6g}"))


def _rounded(row: Tensor) -> list[float | None]:
    return [six_digits(value) for value in row.tolist()]
