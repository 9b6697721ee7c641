"""What folding the gates of a network costs and saves: the plan that is read before the change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from senet.analysis.gate_costs import BlockCost
from senet.cost.timing import Quartiles
from senet.insertion.site_plan import aligned
from senet.schema import finite
from senet.slim.destinations import Destination

__all__ = ["Fold", "FoldCost", "FoldPlan"]

ALL = "all"


@final
@dataclass(frozen=True)
class FoldCost:
    """What folding one block or several costs and saves.

    Attributes:
        cost: difference of accuracy and of loss, each with its 95 % interval, paired by images;
            None where nothing can change (the gates are constant already).
        parameters: how many fewer.
        macs: multiply-adds per image that are saved.
        milliseconds: of one forward of the example that are saved; None if not measured.
    """

    cost: BlockCost | None
    parameters: int
    macs: int
    milliseconds: Quartiles | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        cost = None if self.cost is None else self.cost._asdict()
        return {
            "cost": cost
            and {name: [finite(value) for value in each] for name, each in cost.items()},
            "parameters": self.parameters,
            "macs": self.macs,
            "milliseconds": self.milliseconds and dataclasses.asdict(self.milliseconds),
        }


@final
@dataclass(frozen=True, eq=False)
class Fold:
    """One block whose gate can be held at a constant.

    Attributes:
        path: of the block.
        stage: log2 of the input's size over the map's.
        constant: the constant [C], float64.
        into: where the constant goes.
        saves: what that costs and saves.
    """

    path: str
    stage: int
    constant: Tensor
    into: Destination
    saves: FoldCost


@final
@dataclass(frozen=True, eq=False)
class FoldPlan:
    """Which gates can be held at a constant, and what that costs and saves. `print` shows it.

    Attributes:
        folds: the blocks that can be folded, in the order of their use.
        kept: those that stay, as (path, reason).
        stages: by stage, all its blocks that can be folded, together.
        together: all blocks that can be folded, together.
        chosen: paths of the blocks that `fold` folds: all, or those that a greedy choice took.
        choice: what they cost on the images on which they were chosen, and save.
        tested: what they cost on the images of `test`; None without.
        images: how many images the constants and costs are of.
        accuracy: of the network as it is, on these.
        loss: the same, the mean cross-entropy in nats.
        max_drop: the limit of the greedy choice in percentage points; None for no limit.
        majority_share: the accuracy of always answering the largest class, on these images.
        example: a few images [N, C, *spatial].
        outputs: what the network made of them, by which `fold` knows it again.
    """

    folds: tuple[Fold, ...]
    kept: tuple[tuple[str, str], ...]
    stages: Mapping[int, FoldCost]
    together: FoldCost
    chosen: tuple[str, ...]
    choice: FoldCost
    tested: BlockCost | None
    images: int
    accuracy: float
    loss: float
    max_drop: float | None
    majority_share: float
    example: Tensor = field(repr=False)
    outputs: tuple[Tensor, ...] = field(repr=False)

    @property
    def constants(self) -> dict[str, Tensor]:
        """The constants of the chosen blocks, by path."""
        return {each.path: each.constant for each in self.folds if each.path in self.chosen}

    def __str__(self) -> str:
        """Return the plan as a table."""
        head: tuple[str, ...] = (
            "block",
            "stage",
            "goes into",
            "accuracy, points",
            "loss",
            "parameters",
        )
        head = (*head, "multiply-adds", "ms")
        chosen = set(self.chosen)
        rows: list[tuple[str, ...]] = [head]
        for each in self.folds:
            mark = "" if each.path in chosen else " (stays)"
            names = each.path + mark, str(each.stage), str(each.into)
            rows.append((*names, *_cells(each.saves)))
        if len(self.stages) > 1:
            rows += [("together", str(s), "", *_cells(of)) for s, of in self.stages.items()]
        rows.append(("together", ALL, "", *_cells(self.together)))
        if len(chosen) < len(self.folds):
            rows.append((f"chosen: {len(chosen)}", "", "", *_cells(self.choice)))
        lines = aligned(rows, left=3)
        lines += [f"stays {path}: {reason}" for path, reason in self.kept]
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        if not self.images:
            return ["all gates are constant already: folding changes no output"]
        notes = [
            f"on {self.images:,} images, as it is: accuracy {100 * self.accuracy:.2f} % (always "
            f"the largest class: {100 * self.majority_share:.2f} %), loss {self.loss:.4f}. [ ] is "
            "the 95 % interval of the paired difference."
        ]
        if self.max_drop is not None:
            notes.append(
                f"chosen: as many as cost no more than {self.max_drop:g} points together on these"
            )
        if self.tested is not None:
            accuracy, loss = _points(self.tested.accuracy), _interval(self.tested.loss, 1, 4)
            notes.append(f"the chosen on other images: accuracy {accuracy} points, loss {loss}")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        tested = self.tested and {k: list(v) for k, v in self.tested._asdict().items()}
        return {
            "folds": [
                {"path": f.path, "stage": f.stage, "into": str(f.into), **f.saves.to_dict()}
                for f in self.folds
            ],
            "kept": [list(each) for each in self.kept],
            "stages": {str(stage): of.to_dict() for stage, of in self.stages.items()},
            "together": self.together.to_dict(),
            "chosen": list(self.chosen),
            "choice": self.choice.to_dict(),
            "tested": tested,
            "images": self.images,
            "accuracy": self.accuracy,
            "majority_share": self.majority_share,
            "loss": self.loss,
            "max_drop": self.max_drop,
        }


def _cells(of: FoldCost) -> tuple[str, ...]:
    accuracy = "0" if of.cost is None else _points(of.cost.accuracy)
    loss = "0" if of.cost is None else _interval(of.cost.loss, 1, 4)
    time = "" if of.milliseconds is None else f"{-of.milliseconds.median:+.3f}"
    return accuracy, loss, f"{-of.parameters:+,}", f"{-of.macs:+,}", time


def _points(estimate: Sequence[float]) -> str:
    return _interval(estimate, 100, 2)


def _interval(estimate: Sequence[float], scale: float, digits: int) -> str:
    value, low, high = (scale * each for each in estimate)
    if not math.isfinite(low):
        return f"{value:+.{digits}f}"
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
