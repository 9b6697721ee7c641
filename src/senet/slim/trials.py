"""What folding groups of blocks costs on labelled images, and saves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from senet.analysis import BlockCost
from senet.analysis.gate_costs import Tested, paired_costs
from senet.analysis.record import Planned
from senet.cost.model_copies import forward
from senet.cost.op_counter import count_forward, count_parameters
from senet.cost.timing import interleave, quartiles, wait_for
from senet.progress import Progress
from senet.slim.folds import FoldCost
from senet.slim.rewriting import Constants, copied, fold_in

__all__ = ["Group", "Trials", "savings"]

Group = tuple[str, ...]
_REPEATS, _WARMUP = 15, 2


@final
@dataclass
class Trials:
    """Tests of a network with the gates of some blocks held at constants.

    Attributes:
        net: the network.
        batches: the images.
        constants: of all its gates that depend on the image, by path.
        device: where to send the images.
        on_progress: called with (description, done, total).
        tested: what is known so far; None before the first test.
        costs: of each group that was tested.
    """

    net: nn.Module
    batches: Iterable[Any]
    constants: Mapping[str, Tensor]
    device: torch.device | str | None
    on_progress: Progress
    tested: Tested | None = None
    costs: dict[Group, BlockCost] = field(default_factory=dict)

    def test(self, groups: Iterable[Group], what: str = "testing constant gates") -> None:
        """Test the groups that were not tested yet, in one pass over the images."""
        new = [g for g in groups if g not in self.costs and self._gated(g)]
        if not new or not self.constants:
            return
        self.tested = paired_costs(
            Planned(self.net),
            self.batches,
            {group: self._gated(group) for group in new},
            constants=self.constants,
            classes=None,
            device=self.device,
            on_progress=partial(self.on_progress, what),
        )
        self.costs |= self.tested.costs

    def _gated(self, group: Group) -> dict[str, Tensor]:
        return {path: self.constants[path] for path in group if path in self.constants}

    def greedy(self, paths: Sequence[str], max_drop: float) -> Group:
        """Return blocks that together cost no more than `max_drop` points, cheapest first."""
        self.test([(path,) for path in paths])
        chosen: Group = ()
        for number, path in enumerate(sorted(paths, key=self._loss)):
            group = (*chosen, path)
            self.test([group], f"choosing block {number + 1} of {len(paths)}")
            cost = self.costs.get(group)
            if cost is None or -100 * cost.accuracy.value <= max_drop + 1e-9:
                chosen = group
        return chosen

    def _loss(self, path: str) -> float:
        cost = self.costs.get((path,))
        return -math.inf if cost is None else cost.loss.value


def savings(
    net: nn.Module, groups: Mapping[Group, Constants], example: Tensor, *, timing: bool
) -> dict[Group, FoldCost]:
    """Return what folding each group saves; without what it costs.

    Args:
        net: the network.
        groups: the constants of each, and where they go.
        example: images.
        timing: measure times too.
    """
    variants = {group: fold_in(copied(net, share=True), each) for group, each in groups.items()}
    base = copied(net, share=True).eval()
    before = _counted(base, example)
    timed = None
    if timing:
        models = {"": base, **{str(i): each.eval() for i, each in enumerate(variants.values())}}
        tasks = {name: partial(forward, each, example) for name, each in models.items()}
        wait = wait_for(example.device)
        timed = interleave(tasks, repeats=_REPEATS, warmup=_WARMUP, wait=wait)
    saved = {}
    for i, (group, each) in enumerate(variants.items()):
        parameters, macs = (a - b for a, b in zip(before, _counted(each, example), strict=True))
        times = None
        if timed is not None:
            pairs = zip(timed.samples[""], timed.samples[str(i)], strict=True)
            times = quartiles([a - b for a, b in pairs])
        saved[group] = FoldCost(None, parameters, macs, times)
    return saved


def _counted(net: nn.Module, example: Tensor) -> tuple[int, int]:
    """Return the parameters, and the multiply-adds of one image."""
    macs = count_forward(net, example[:1]).macs
    return sum(count_parameters(net).values()), sum(macs.values())
