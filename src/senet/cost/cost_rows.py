"""Views of one count: in total, by stage, by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import nn

from senet.insertion import Site

__all__ = [
    "QUANTITIES",
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


def _row(
    name: str, stage: int | None, ledgers: Mapping[str, Ledger], paths: set[str] | None
) -> Row:
    def sum_of(counts: Counter[str] | None) -> int | None:
        if counts is None:
            return None
        return sum(value for path, value in counts.items() if paths is None or path in paths)

    sums = {
        label: Counts(**{quantity: sum_of(ledger[quantity]) for quantity in QUANTITIES})  # type: ignore[arg-type]
        for label, ledger in ledgers.items()
    }
    return Row(name, stage, sums)


def _home(path: str, groups: Mapping[str, Group]) -> Group | None:
    """The innermost group that a module lies in."""
    while path:
        if path in groups:
            return groups[path]
        path = path.rpartition(".")[0]
    return groups.get("")


def _members(
    ledgers: Mapping[str, Ledger], groups: Sequence[Group]
) -> dict[Group | None, set[str]]:
    """The paths with counts, by the group that they belong to."""
    members: dict[Group | None, set[str]] = {group: set() for group in (*groups, None)}
    by_path = {path: group for group in groups for path in group.paths}
    for ledger in ledgers.values():
        for counts in ledger.values():
            for path in counts or ():
                members[_home(path, by_path)].add(path)
    return members


def total(ledgers: Mapping[str, Ledger]) -> Row:
    """Return the counts of the whole networks."""
    return _row("total", None, ledgers, None)


def by_block(ledgers: Mapping[str, Ledger], groups: Sequence[Group]) -> tuple[Row, ...]:
    """Return a row for each group, and one for all that is in none."""
    members = _members(ledgers, groups)
    return tuple(
        _row(group.name if group else "other", group and group.stage, ledgers, paths)
        for group, paths in members.items()
        if group or paths
    )


def by_stage(ledgers: Mapping[str, Ledger], groups: Sequence[Group]) -> tuple[Row, ...]:
    """Return a row for each stage that has a group, and one for all that is in none."""
    members = _members(ledgers, groups)
    rows = []
    for stage in sorted({group.stage for group in groups if group.stage is not None}):
        paths = set().union(*(p for group, p in members.items() if group and group.stage == stage))
        rows.append(_row(f"stage {stage}", stage, ledgers, paths))
    if rows and members[None]:
        rows.append(_row("other", None, ledgers, members[None]))
    return tuple(rows)
