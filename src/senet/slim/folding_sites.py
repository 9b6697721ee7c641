"""The blocks of a network that could be folded, and those that cannot, with the reason."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from senet.analysis.gate_flow import GateSite, gate_plan
from senet.errors import InputError
from senet.insertion import se_modules
from senet.insertion.anchors import stage_of
from senet.insertion.gating import Gating
from senet.insertion.trace import Value, record_flow
from senet.slim.destinations import FACTOR, Destination, destination, host_destination

__all__ = ["Block", "Blocks", "Choice"]

# A choice of blocks: a glob over their paths, or a stage; or several.
Choice = str | int | Sequence[str | int] | None


@final
@dataclass(frozen=True)
class Block:
    """A block that a constant can replace.

    Attributes:
        path: of its module.
        stage: log2 of the input's size over the map's.
        span: the values that it reads and returns, where it is called as a module of its own; None
            where it is computed together with the batch norm that has it.
        gated: whether its gate depends on the image; else it is constant already.
    """

    path: str
    stage: int
    span: tuple[Value, Value] | None
    gated: bool


@final
class Blocks:
    """What there is to fold in a network.

    Args:
        net: the network.
        example: images [N, C, *spatial].

    Attributes:
        foldable: by path, in the order of their use.
        kept: those that stay, as (path, reason).

    Raises:
        InputError: the network does not run on the example, or has no gate.
    """

    def __init__(self, net: nn.Module, example: Tensor) -> None:
        self.net, self.modules = net, dict(net.named_modules())
        self.flow = record_flow(net, example)
        self.inside = Gating(self.flow).inside
        self.image = tuple(example.shape[2:])
        self.foldable: dict[str, Block] = {}
        self.kept: list[tuple[str, str]] = []
        constant = [p for p, block in se_modules(net).items() if block.squeeze == "constant"]
        try:
            sites = gate_plan(net, example).sites
        except InputError:
            if not constant:
                raise
            sites = ()
        runs = Counter(site.path for site in sites)
        for site in sites:
            reason = self._reason(site, runs[site.path])
            if reason:
                self.kept.append((site.path, reason))
            else:
                self.foldable[site.path] = Block(
                    site.path, site.stage, self._span(site), gated=True
                )
        for path in constant:
            self._add_constant(path)
        self.gated = list(runs)
        seen = {*runs, *constant}
        unseen = [path for path in se_modules(net) if path not in seen]
        self.kept += [(path, "no gate of it was seen in the data flow") for path in unseen]

    def _span(self, site: GateSite) -> tuple[Value, Value] | None:
        if not self.flow.calls_of[site.path]:
            return None
        product = self.flow.values[site.product]
        return product.parents[1 - site.factor], product

    def _reason(self, site: GateSite, runs: int) -> str:
        """Why a block cannot be folded, "" if it can."""
        if runs > 1:
            return "it runs more than once, with one gate each"
        if math.prod(self.flow.values[site.gate].shape[1:]) != site.channels:
            return "its gate has a value for each position"
        for call in self.flow.calls_of[site.path]:
            if self._span(site) != (call.input, call.output):
                return "the module that multiplies does more than that"
        host = self.modules.get(site.path.rpartition(".")[0])
        if not self.flow.calls_of[site.path] and (host is None or "#" in site.path):
            return "the module that multiplies does more than that"
        return "" if site.path else "it is the whole network"

    def _add_constant(self, path: str) -> None:
        calls = self.flow.calls_of[path] or self.flow.calls_of[path.rpartition(".")[0]]
        call = calls[0] if len(calls) == 1 else None
        if call is None or call.output is None or call.input is None:
            self.kept.append((path, "it runs not once, or on something else than a map"))
            return
        span = (call.input, call.output) if call.path == path else None
        stage = stage_of(self.image, call.output.shape[2:])
        self.foldable[path] = Block(path, stage, span, gated=False)

    def choose(self, only: Choice, keep: Choice) -> None:
        """Keep the blocks that are not wanted.

        Raises:
            InputError: a part of the choice is of no block.
        """
        self._check_choice("only", only)
        self._check_choice("keep", keep)
        for block in list(self.foldable.values()):
            if not (only is None or _chosen(only, block)) or (keep and _chosen(keep, block)):
                del self.foldable[block.path]
                self.kept.append((block.path, "not asked for"))

    def _check_choice(self, name: str, choice: Choice) -> None:
        paths = [*self.foldable, *(path for path, _ in self.kept)]
        stages = {block.stage for block in self.foldable.values()}
        parts = _listed(choice)
        of_none = [
            each
            for each in parts
            if not (each in stages if isinstance(each, int) else fnmatch.filter(paths, each))
        ]
        # several stages may be given for networks of which each has some
        all_wrong = bool(stages) and len(of_none) == len(parts)
        if of_none and (all_wrong or any(isinstance(each, str) for each in of_none)):
            raise InputError(
                f"{name} must take some of the blocks, got {of_none[0]!r}; there are the stages "
                f"{', '.join(map(str, sorted(stages)))} and the blocks {', '.join(paths)}"
            )

    def into(self, path: str, constant: Tensor) -> Destination:
        """Return where the constant [C] of a block goes."""
        block = self.foldable[path]
        if block.span is None:
            return host_destination(self.net, path) or Destination(FACTOR)
        inside: Collection[Value] = self.inside
        if not block.gated:
            (call,) = self.flow.calls_of[path]
            inside = self.flow.values[call.start : call.end]
        positive = bool((constant >= 0).all())
        return destination(self.flow, self.modules, block.span, inside, positive=positive)


def _chosen(choice: Choice, block: Block) -> bool:
    return any(
        block.stage == each if isinstance(each, int) else fnmatch.fnmatchcase(block.path, each)
        for each in _listed(choice)
    )


def _listed(choice: Choice) -> Sequence[str | int]:
    return [choice] if isinstance(choice, str | int) else choice or ()
