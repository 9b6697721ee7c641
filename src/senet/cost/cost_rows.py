"""Counts by part of the network: in total, by stage, by block."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from senet.insertion import Site

__all__ = [
    "QUANTITIES",
    "RUN_QUANTITIES",
    "Counts",
    "Group",
    "Ledger",
    "Row",
    "by_block",
    "by_stage",
    "groups_of",
    "total",
]

# A number by quantity and path of the module; None where the quantity could not be counted.
Ledger = Mapping[str, Counter[str] | None]

# Field of `Counts`: what it is called.
QUANTITIES = {
    "parameters": "parameters",
    "macs": "multiply-adds",
    "bytes_moved_forward": "bytes moved, forward",
    "bytes_moved_step": "bytes moved, training step",
    "bytes_kept": "bytes kept for the backward",
}

# what a network that only runs can be asked for
RUN_QUANTITIES = ("parameters", "macs", "bytes_moved_forward")


@final
@dataclass(frozen=True)
class Counts:
    """What was counted exactly.

    Attributes:
        parameters: numbers to learn; a shared one counts once.
        macs: multiply-adds of one forward.
        bytes_moved_forward: read and written by the operators of one forward in evaluation mode.
        bytes_moved_step: the same of one forward in training mode and its backward.
        bytes_kept: of activations that wait for the backward at the end of that forward.
    """

    parameters: int
    macs: int
    bytes_moved_forward: int
    bytes_moved_step: int | None
    bytes_kept: int | None


@final
@dataclass(frozen=True)
class Row:
    """The counts of one part of the network, for each model that was counted.

    Attributes:
        name: of the part: "total", a stage, a block, or "other" for what is in none.
        stage: the stage it belongs to, where there is one.
        counts: "plain" and "se", or only "model".
    """

    name: str
    stage: int | None
    counts: Mapping[str, Counts]

    def values(self, quantity: str) -> tuple[int | None, ...]:
        """Return a quantity of each model, plain first."""
        return tuple(getattr(counts, quantity) for counts in self.counts.values())

    def difference(self, quantity: str) -> int | None:
        """Return SE - plain; None where one is not available, or a model is alone."""
        match self.values(quantity):
            case (int(plain), int(se)):
                return se - plain
        return None

    def ratio(self, quantity: str) -> float | None:
        """Return SE / plain; None where one is not available, or plain is zero and SE is not."""
        match self.values(quantity):
            case (int(plain), int(se)) if plain or not se:
                return se / plain if plain else 1.0
        return None


@final
@dataclass(frozen=True)
class Group:
    """A part of the network: modules, and all below them."""

    name: str
    paths: tuple[str, ...]
    stage: int | None = None


def groups_of(sites: Sequence[Site], models: Sequence[nn.Module]) -> tuple[Group, ...]:
    """Return the parts to report: the blocks with a site, or the top-level children without any.

    In a plain stack of convolutions several sites lie in one block. There a part is what runs from
    behind one site up to the next, so that each has a price of its own.
    """
    if not sites:
        names = dict.fromkeys(name for model in models for name, _ in model.named_children())
        return tuple(Group(name, (name,)) for name in names)
    shared = Counter(site.block for site in sites)
    taken: set[str] = set()
    groups: dict[str, Group] = {}
    for site in sites:
        paths: tuple[str, ...] = (site.block,)
        if shared[site.block] > 1:
            paths = _stretch(models[0].get_submodule(site.block), site, taken) or (site.path,)
            taken.update(paths)
        name = paths[0] or "(model)"
        if len(paths) > 1:
            name += ".." + paths[-1].rpartition(".")[2]
        groups.setdefault(name, Group(name, paths, site.stage))
    return tuple(groups.values())


def _stretch(block: nn.Module, site: Site, taken: set[str]) -> tuple[str, ...]:
    """The children of a sequence that run up to the site, and belong to no site before."""
    if not isinstance(block, nn.Sequential):
        return ()
    prefix = f"{site.block}." if site.block else ""
    children = [prefix + name for name, _ in block.named_children()]
    last = prefix + site.path.removeprefix(prefix).partition(".")[0]
    return tuple(path for path in children[: children.index(last) + 1] if path not in taken)


def total(ledgers: Mapping[str, Ledger]) -> Row:
    """Return the counts of the whole networks."""
    (row,) = by_block(ledgers, [Group("total", ("",))])
    return row


def by_block(ledgers: Mapping[str, Ledger], groups: Sequence[Group]) -> tuple[Row, ...]:
    """Return a row for each group, and one for all that is in none.

    A module belongs to the innermost group that it lies in.
    """
    by_path = {path: group for group in groups for path in group.paths}
    other = Group("other", ())
    sums: defaultdict[Group, Any] = defaultdict(lambda: _zeros(ledgers))
    for group in groups:
        sums[group] = _zeros(ledgers)
    for label, ledger in ledgers.items():
        for quantity, counts in ledger.items():
            for path, count in (counts or {}).items():
                home = path
                while home and home not in by_path:
                    home = home.rpartition(".")[0]
                sums[by_path.get(home, other)][label][quantity] += count
    return tuple(
        Row(group.name, group.stage, {label: Counts(**each) for label, each in models.items()})
        for group, models in sums.items()
    )


def _zeros(ledgers: Mapping[str, Ledger]) -> dict[str, dict[str, int | None]]:
    """Nothing counted yet, by model and quantity; None where the quantity cannot be counted."""
    return {
        label: {q: None if ledger[q] is None else 0 for q in QUANTITIES}
        for label, ledger in ledgers.items()
    }


def by_stage(ledgers: Mapping[str, Ledger], groups: Sequence[Group]) -> tuple[Row, ...]:
    """Return a row for each stage that has a group, and one for all that is in none."""
    stages = sorted({group.stage for group in groups if group.stage is not None})
    merged = [
        Group(
            f"stage {stage}", tuple(p for g in groups if g.stage == stage for p in g.paths), stage
        )
        for stage in stages
    ]
    return by_block(ledgers, merged) if merged else ()
