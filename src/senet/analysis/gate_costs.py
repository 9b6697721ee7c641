"""What the blocks of a network are worth: accuracy and loss with gates held constant, or gone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.analysis.gate_flow import evaluating
from senet.analysis.record import Planned, labelled_batches
from senet.analysis.stats import NORMAL, Estimate, paired_proportions
from senet.errors import InputError, unknown_name
from senet.progress import Progress, silent
from senet.schema import finite

__all__ = ["ALL", "BlockCost", "GateCosts", "Tested", "gate_costs", "paired_costs"]

ALL = "all blocks"


class BlockCost(NamedTuple):
    """What a change of gates costs: changed minus as it is, on the same images.

    Attributes:
        accuracy: difference of the accuracies; below 0 where the gate was of use.
        loss: difference of the mean cross-entropies, in nats; above 0 where it was of use.
    """

    accuracy: Estimate
    loss: Estimate


@final
@dataclass(frozen=True)
class GateCosts:
    """What the blocks are worth on labelled images, one by one and all together.

    Attributes:
        images: how many were tested.
        accuracy: of the network as it is.
        loss: of the network as it is, the mean cross-entropy in nats.
        constant: by path, and under `ALL`, the cost of holding the gate at a constant.
        removed: the same with the gate at 1.
        majority_share: the accuracy of always answering the largest class.
    """

    images: int
    accuracy: float
    loss: float
    constant: Mapping[str, BlockCost]
    removed: Mapping[str, BlockCost]
    majority_share: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form."""

        def plain(costs: Mapping[str, BlockCost]) -> dict[str, Any]:
            return {
                path: {name: [finite(v) for v in each] for name, each in cost._asdict().items()}
                for path, cost in costs.items()
            }

        return {
            "images": self.images,
            "accuracy": self.accuracy,
            "majority_share": finite(self.majority_share),
            "loss": finite(self.loss),
            "constant": plain(self.constant),
            "removed": plain(self.removed),
        }


@dataclass
class _Paired:
    """Running sums of what a change does to each image."""

    better: int = 0  # images that became right
    worse: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))

    def add(self, right: Tensor, loss: Tensor, base_right: Tensor, base_loss: Tensor) -> None:
        self.better += int((right & ~base_right).sum())
        self.worse += int((~right & base_right).sum())
        change = loss - base_loss
        self.sums += torch.stack([change.sum(), change.square().sum()])

    def cost(self, images: int) -> BlockCost:
        mean = (self.sums[0] / images).item()
        variance = max(0.0, (self.sums[1] / images).item() - mean**2)
        half = NORMAL * math.sqrt(variance / (images - 1)) if images > 1 else math.nan
        accuracy = paired_proportions(self.better, self.worse, images)
        return BlockCost(accuracy, Estimate(mean, mean - half, mean + half))


def _judged(output: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each image whether it is right, and its cross-entropy in float64."""
    while isinstance(output, list | tuple):
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise InputError(
            f"the network must give scores [N, K] of classes, got {type(output).__name__}"
            + (f" of shape {list(output.shape)}" if isinstance(output, Tensor) else "")
        )
    if int(labels.max()) >= output.shape[1]:
        raise InputError(
            f"the network must give a score for each class, got {output.shape[1]} scores and "
            f"label {int(labels.max())}"
        )
    scores = output.detach().float().cpu().to(torch.float64)
    return scores.argmax(1) == labels, F.cross_entropy(scores, labels, reduction="none")


def gate_costs(
    model: nn.Module,
    batches: Iterable[Any],
    constants: Mapping[str, Tensor],
    *,
    classes: Sequence[str],
    paths: Sequence[str] | None = None,
    max_batches: int | None = None,
    device: torch.device | str | None = None,
    on_progress: Progress = silent,
) -> GateCosts:
    """Test a network as it is, with gates held at a constant, and with gates that are 1.

    The batches are gone through once; on each the network runs once as it is and twice for each
    block, and twice for all blocks together. The intervals are those of paired differences: the
    same images are right or wrong with and without. Take the constants from training images and the
    batches from others. The network is not changed.

    Args:
        model: a network that returns scores [N, K] (of several outputs, the first counts).
        batches: of (images, labels) with integer labels [N].
        constants: by path, the gate's constant value [C]; as `Gates.means`.
        classes: name of each class.
        paths: which blocks are looked at one by one; all if not given.
        max_batches: stop after so many batches; None for all.
        device: where to send the images; None for the device of the model's parameters.
        on_progress: called with (description, done, total); total is 0 where it is not known.

    Raises:
        InputError: no gate, no batch, a block without a constant, or what does not fit.
        UnknownNameError: a path that is not among the constants.

    Example:
        >>> from senet import SqueezeExcitation
        >>> from senet.analysis import record_gates
        >>> se = SqueezeExcitation(2, centered=True)  # its gates are 1
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), se, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> data = [(torch.randn(4, 1, 5, 5), torch.tensor([0, 1, 0, 1]))]
        >>> means = record_gates(model, data).means()
        >>> gate_costs(model, data, means, classes=["zero", "one"]).removed["1"].loss.value
        0.0
    """
    for path in paths or ():
        if path not in constants:
            raise unknown_name("block", path, constants)
    variants = _variants(constants, list(constants) if paths is None else paths)
    tested = paired_costs(
        Planned(model),
        batches,
        variants,
        constants=constants,
        classes=len(classes),
        max_batches=max_batches,
        device=device,
        on_progress=partial(on_progress, "testing constant and removed gates"),
    )
    constant, removed = (
        {path: cost for (kind, path), cost in tested.costs.items() if kind == wanted}
        for wanted in ("constant", "removed")
    )
    images, accuracy, loss, share, _ = tested
    return GateCosts(images, accuracy, loss, constant, removed, share)


class Tested(NamedTuple):
    """A network on labelled images, and what changes of its gates cost there.

    Attributes:
        images: how many were tested.
        accuracy: of the network as it is.
        loss: of the network as it is, the mean cross-entropy in nats.
        majority_share: the accuracy of always answering the largest class.
        costs: of each variant.
    """

    images: int
    accuracy: float
    loss: float
    majority_share: float
    costs: dict[Any, BlockCost]


def paired_costs(
    planned: Planned,
    batches: Iterable[Any],
    variants: Mapping[Any, Mapping[str, Any]],
    *,
    constants: Mapping[str, Tensor],
    classes: int | None,
    max_batches: int | None = None,
    device: torch.device | str | None = None,
    on_progress: Callable[[int, int], None],
) -> Tested:
    """Test a network as it is and with gates replaced, on the same images.

    Args:
        planned: the network.
        batches: of (images, labels).
        variants: by name, what stands in the place of gates: by path a value [C], or a number.
        constants: a value [C] of every gate, to check that they are those of the network.
        classes: how many; None if nobody knows.
        max_batches: stop after so many batches; None for all.
        device: where to send the images.
        on_progress: called with (done, total).

    Raises:
        InputError: no gate, no batch, or what does not fit.
    """
    running = {key: _Paired() for key in variants}
    right_images, of_class = 0, Counter[int]()
    loss_sum = 0.0
    with evaluating(planned.net):
        for x, labels in labelled_batches(
            planned.net,
            batches,
            classes,
            max_batches=max_batches,
            device=device,
            on_progress=on_progress,
        ):
            right, loss = _judged(planned.run(x)[0], labels)
            _check(planned, constants)
            for key, replace in variants.items():
                running[key].add(*_judged(planned.run(x, replace=replace)[0], labels), right, loss)
            of_class.update(labels.tolist())
            right_images += int(right.sum())
            loss_sum += loss.sum().item()
    images = of_class.total()
    costs = {key: each.cost(images) for key, each in running.items()}
    share = max(of_class.values()) / images
    return Tested(images, right_images / images, loss_sum / images, share, costs)


def _variants(
    constants: Mapping[str, Tensor], paths: Sequence[str]
) -> dict[tuple[str, str], Mapping[str, Any]]:
    ones = dict.fromkeys(constants, 1.0)
    kinds: dict[str, Mapping[str, Any]] = {"constant": constants, "removed": ones}
    variants: dict[tuple[str, str], Mapping[str, Any]] = {}
    for kind, values in kinds.items():
        variants |= {(kind, path): {path: values[path]} for path in paths}
        variants[kind, ALL] = values
    return variants


def _check(planned: Planned, constants: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless the constants are those of the network's blocks."""
    widths = {site.path: site.channels for site in planned.known_plan().sites}
    given = {path: len(constant) for path, constant in constants.items()}
    if widths != given:
        odd = next(path for path in (*widths, *given) if widths.get(path) != given.get(path))
        raise InputError(
            f"constants must have a value for each channel of each block, for {odd!r} of "
            f"{widths.get(odd)} channels got {given.get(odd)}; take them from Gates.means() of "
            "this network"
        )
