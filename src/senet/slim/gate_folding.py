"""Folding: gates that a constant replaces go into the weights, and their blocks are gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from senet.analysis.gate_flow import unwrapped
from senet.errors import InputError
from senet.insertion import se_modules
from senet.insertion.guard import settle
from senet.progress import Progress, silent
from senet.slim.folding_sites import Choice
from senet.slim.folds import FoldPlan
from senet.slim.planning import find_folds
from senet.slim.rewriting import copied, fold_in, folding_error, scores

__all__ = ["Folding", "fold"]


@final
@dataclass(frozen=True, eq=False)
class Folding:
    """What `fold` did; `print` shows it.

    Attributes:
        plan: what it did it by.
        error: the largest difference of the outputs on the example, relative to the largest output,
            to those of the network with constant gates.
        parameters_before: of the network.
        parameters_after: the same, folded.
    """

    plan: FoldPlan
    error: float
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        """Return the plan and what became of it."""
        return (
            f"{self.plan}\nfolded {len(self.plan.chosen)} blocks: {self.parameters_before:,} -> "
            f"{self.parameters_after:,} parameters; outputs differ by {self.error:.1e} of the "
            "largest from those with constant gates"
        )


@torch.no_grad()
def fold(
    model: nn.Module,
    batches: Iterable[Any] | FoldPlan,
    *,
    max_drop: float | None = None,
    only: Choice = None,
    keep: Choice = None,
    test: Iterable[Any] | None = None,
    timing: bool = False,
    device: torch.device | str | None = None,
    on_progress: Progress = silent,
) -> nn.Module:
    """Return a network without the blocks whose gates a constant replaces; the given one stays.

    The constant goes into the batch norm or convolution in front of the block, through an
    activation like ReLU, or into the convolution behind it; where none of these is, a factor per
    channel stays. All else is as it was: the network trains, is saved by `senet.save` and
    `senet.save_pretrained`, deployed and exported as before.

    Args:
        model: as in `find_folds`.
        batches: images as in `find_folds`, or the plan that it returned.
        max_drop: as in `find_folds`, and so are the others; they are of no use with a plan.
        only: fold no others.
        keep: do not fold these.
        test: other images, for what the choice costs.
        timing: measure times too.
        device: where to send the images.
        on_progress: called with (description, done, total).

    Returns:
        The network; its attribute `folding` says what was done.

    Raises:
        ConfigError: a limit below 0.
        InputError: no gate, no block that can be folded, or a plan of another network.
        InsertionError: the model cannot be copied, or the new network computes something else.

    Source: docs/slim.md.

    Example:
        >>> from senet import SEBatchNorm2d
        >>> end = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), SEBatchNorm2d(4), *end)
        >>> data = [(torch.randn(4, 1, 5, 5), torch.tensor([0, 1, 0, 1]))]
        >>> type(fold(net, data)[1]).__name__
        'BatchNorm2d'
    """
    plan = batches
    if not isinstance(plan, FoldPlan):
        plan = find_folds(
            model,
            plan,
            max_drop=max_drop,
            only=only,
            keep=keep,
            test=test,
            timing=timing,
            device=device,
            on_progress=on_progress,
        )
    settle(model)
    net = unwrapped(model)
    paths = {path for path, _ in net.named_modules()}
    if missing := [path for path in plan.chosen if path not in paths]:
        raise InputError(
            f"the plan must be one of this {type(net).__name__}, which has no {missing[0]!r}; call "
            "senet.find_folds(model, batches) again"
        )
    _check_same(net, plan)
    into = {each.path: each.into for each in plan.folds}
    constants = plan.constants
    made = fold_in(copied(net), {path: (s, into[path]) for path, s in constants.items()})
    fixed = {path for path, block in se_modules(net).items() if block.squeeze == "constant"}
    gated = {path: s for path, s in constants.items() if path not in fixed}
    error = folding_error(net, made, gated, plan.example)
    before, after = (sum(p.numel() for p in each.parameters()) for each in (net, made))
    made.folding = Folding(plan, error, before, after)  # type: ignore[assignment]
    return made


def _check_same(net: nn.Module, plan: FoldPlan) -> None:
    """Raise unless the plan is of this network with these weights."""
    for before, now in zip(plan.outputs, scores(net, plan.example), strict=True):
        same = before.shape == now.shape
        if not same or (before - now).abs().max() > 1e-3 * before.abs().max():
            raise InputError(
                f"the plan must be of this {type(net).__name__} with the weights that it has, but "
                "its outputs have changed since; call senet.find_folds(model, batches) again"
            )
