"""Planning: which gates a constant can replace, where it goes, what that costs and saves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from senet.analysis import Gates, record_gates
from senet.analysis.gate_flow import unwrapped
from senet.errors import ConfigError, InputError
from senet.insertion import se_modules
from senet.insertion.guard import settle
from senet.progress import Progress, silent
from senet.slim.folding_sites import Blocks, Choice
from senet.slim.folds import Fold, FoldCost, FoldPlan
from senet.slim.rewriting import scores
from senet.slim.trials import Group, Trials, savings

__all__ = ["find_folds"]

_EXAMPLES = 2


def find_folds(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    max_drop: float | None = None,
    only: Choice = None,
    keep: Choice = None,
    test: Iterable[Any] | None = None,
    timing: bool = True,
    device: torch.device | str | None = None,
    on_progress: Progress = silent,
) -> FoldPlan:
    """Find out which gates of a network a constant can replace, and what that costs and saves.

    Nothing is changed. The constant of a gate is its mean over the images of `batches`. With
    `max_drop` blocks are chosen greedily, those that cost the least loss first, as long as all of
    them together cost no more than so many points of accuracy on `batches`; what the choice costs
    on images on which nothing was chosen, `test` says.

    Args:
        model: any network that returns scores [N, K]: with blocks of `senet.insert`, one of this
            project, timm's or torchvision's, or with a block written by hand that is a module of
            its own.
        batches: training images that need not be augmented: (images, labels) with integer labels
            [N]; a list or a loader, which is gone through several times.
        max_drop: the limit, in percentage points of accuracy; None chooses every block.
        only: fold no others: a glob over the blocks' paths ("layer4.*"), a stage (log2 of the
            input's size over the map's), or several.
        keep: do not fold these, in the same form.
        test: other images, for what the choice costs.
        timing: measure times too.
        device: where to send the images; None for the device of the model's parameters.
        on_progress: called with (description, done, total).

    Raises:
        ConfigError: a limit below 0.
        InputError: no gate, no block that can be folded, or images that do not fit.

    Source: the paper, section 7; Z. Huang et al., "Stripe Observation Guided Inference Cost-free
        Attention Mechanism", ECCV 2024.

    Example:
        >>> from senet import SEBatchNorm2d
        >>> end = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), SEBatchNorm2d(4), *end)
        >>> data = [(torch.randn(4, 1, 5, 5), torch.tensor([0, 1, 0, 1]))]
        >>> plan = find_folds(net, data, timing=False)
        >>> [(fold.path, str(fold.into), fold.saves.parameters) for fold in plan.folds]
        [('1.se', 'batch norm 1', 13)]
    """
    _check(batches, max_drop)
    settle(model)
    net = unwrapped(model)
    example = _example(net, batches, device)
    blocks = Blocks(net, example)
    blocks.choose(only, keep)
    if not blocks.foldable:
        reasons = "; ".join(
            f"{path or 'the network itself'}: {reason}" for path, reason in blocks.kept
        )
        raise InputError(f"the network must have a block that can be folded, but {reasons}")
    means = {}
    if blocks.gated:
        gates = record_gates(net, batches, device=device, on_progress=on_progress)
        means = _means(gates)
    trials = Trials(net, batches, means, device, on_progress)
    everything = tuple(blocks.foldable)
    trials.test([*((path,) for path in everything), *_by_stage(blocks).values(), everything])
    chosen = everything if max_drop is None else trials.greedy(everything, max_drop)
    plan = _plan(blocks, trials, example, chosen, timing=timing)
    return dataclasses.replace(plan, max_drop=max_drop, tested=_on_others(trials, test, chosen))


def _plan(
    blocks: Blocks, trials: Trials, example: Tensor, chosen: Group, *, timing: bool
) -> FoldPlan:
    """Return the plan, without a limit and without a test on other images."""
    everything, stages, tested = tuple(blocks.foldable), _by_stage(blocks), trials.tested
    constants = {**trials.constants, **_constants(blocks.net)}
    into = {path: (constants[path], blocks.into(path, constants[path])) for path in everything}
    groups: list[Group] = [(path,) for path in everything]
    wanted = dict.fromkeys([*groups, *stages.values(), everything, chosen])
    trials.on_progress("measuring what folding saves", 0, 1)
    folds = {group: {path: into[path] for path in group} for group in wanted}
    saved = savings(blocks.net, folds, example, timing=timing)

    def cost_of(group: Group) -> FoldCost:
        return dataclasses.replace(saved[group], cost=trials.costs.get(group))

    return FoldPlan(
        folds=tuple(
            Fold(path, blocks.foldable[path].stage, *into[path], cost_of((path,)))
            for path in everything
        ),
        kept=tuple(blocks.kept),
        stages={stage: cost_of(group) for stage, group in stages.items()},
        together=cost_of(everything),
        chosen=tuple(path for path in everything if path in chosen),
        choice=cost_of(chosen),
        tested=None,
        images=0 if tested is None else tested.images,
        accuracy=math.nan if tested is None else tested.accuracy,
        loss=math.nan if tested is None else tested.loss,
        max_drop=None,
        majority_share=math.nan if tested is None else tested.majority_share,
        example=example,
        outputs=tuple(scores(blocks.net, example)),
    )


def _means(gates: Gates) -> dict[str, Tensor]:
    """Return the mean gates, by path; all must be numbers."""
    for block in gates.blocks:
        if block.diverged:
            raise InputError(
                f"gates must be finite to be held at their means, but {block.path!r} has some that "
                "are NaN or infinite; look for such values in the images and in the weights"
            )
    return gates.means()


def _check(batches: Iterable[Any], max_drop: float | None) -> None:
    if max_drop is not None and not max_drop >= 0:
        raise ConfigError(f"max_drop must be at least 0 percentage points, got {max_drop}")
    if iter(batches) is batches:
        raise InputError(
            "batches must be such that they can be gone through several times, got an iterator; "
            "give a loader or a list"
        )


def _example(net: nn.Module, batches: Iterable[Any], device: torch.device | str | None) -> Tensor:
    """Return the first few images."""
    batch = next(iter(batches), None)
    images = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(images, Tensor):
        raise InputError(
            f"a batch must be (images, labels), got {type(batch).__name__}; wrap the loader in one "
            "that yields such pairs"
        )
    if device is None:
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
    return images[:_EXAMPLES].to(device)


def _constants(net: nn.Module) -> dict[str, Tensor]:
    """Return the gates that are constant already, by path, float64 [C]."""
    with torch.no_grad():
        return {
            path: block.constant_gate()[0].double()
            for path, block in se_modules(net).items()
            if block.squeeze == "constant"
        }


def _by_stage(blocks: Blocks) -> dict[int, Group]:
    stages: dict[int, Group] = {}
    for path, block in blocks.foldable.items():
        stages[block.stage] = (*stages.get(block.stage, ()), path)
    return stages


def _on_others(trials: Trials, test: Iterable[Any] | None, chosen: Group) -> Any:
    """Return what a choice costs on images on which nothing was chosen."""
    if test is None:
        return None
    others = dataclasses.replace(trials, batches=test, costs={}, tested=None)
    others.test([chosen], "testing the choice on other images")
    return others.costs.get(chosen)
