"""Insertion and removal: the calls that change a model, and what they report."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from torch import nn

from senet.blocks import SqueezeExcitation
from senet.errors import InsertionError, NoSitesError
from senet.insertion.config import SEConfig
from senet.insertion.graft import attach, detach, grafts
from senet.insertion.refusals import check_model
from senet.insertion.site_plan import Site, SitePlan
from senet.insertion.sites import find_sites

__all__ = ["InsertionReport", "SEParameters", "insert", "remove", "se_modules", "se_parameters"]


@final
@dataclass(frozen=True)
class InsertionReport:
    """What `insert` did. `print(report)` shows it.

    Attributes:
        sites: the sites that got a block.
        existing: module paths of the gates that the model had already.
        skipped: places that got none, as (block, reason).
        base_parameters: parameters of the model before.
        plan: the plan that was carried out.
    """

    sites: tuple[Site, ...]
    existing: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    base_parameters: int
    plan: SitePlan

    @property
    def parameters(self) -> int:
        """Parameters added."""
        return self.plan.parameters

    @property
    def macs(self) -> int:
        """Multiply-adds added per image."""
        return self.plan.macs

    def __str__(self) -> str:
        """Return the plan and the sum."""
        share = 100 * self.parameters / max(1, self.base_parameters)
        return (
            f"{self.plan}\ninserted {len(self.sites)} SE blocks: +{self.parameters:,} parameters "
            f"(+{share:.2f} % on {self.base_parameters:,}), +{self.macs:,} multiply-adds per image"
        )


class SEParameters(NamedTuple):
    """The parameters of a model in two groups."""

    se: list[nn.Parameter]
    base: list[nn.Parameter]


def insert(model: nn.Module, example_input: Any, config: SEConfig | None = None) -> InsertionReport:
    """Insert SE blocks into a model, in place, where `find_sites` finds them.

    With `init="identity"` (the default) the changed model computes the same as before, bit for bit
    in float32, in training and evaluation mode, and the blocks learn from the first step on. Where
    a network multiplies a branch by zero at the start (timm's ResNets start the last gamma of each
    branch at zero) the blocks behind it get no gradient in the very first step, as the convolutions
    of that branch do not either.

    Every key of the state dict stays; only keys of the blocks are added, `<site>.se.fc1.weight` and
    so on.

    Args:
        model: any convolutional network, before it is compiled, wrapped for parallel training, or
            traced.
        example_input: a tensor [N, C, *spatial], a tuple of positional arguments, or a dict of
            keyword arguments.
        config: what to insert and where; `SEConfig()` if not given.

    Returns:
        What was done.

    Raises:
        InsertionError: the model has inserted blocks already; or it, or a part of it, is compiled,
            wrapped, traced, scripted, quantised or lazy. Nothing is changed.
        NoSitesError: nothing was found; the message says what was looked at.
        InputError: the model does not run on the example input.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU())
        >>> x = torch.randn(2, 3, 8, 8)
        >>> before = net(x)
        >>> report = insert(net, x)
        >>> [site.path for site in report.sites], report.parameters
        (['2'], 162)
        >>> torch.equal(net(x), before)
        True
    """
    config = config or SEConfig()
    check_model(model)
    if present := grafts(model):
        raise InsertionError(
            f"the model must have no inserted SE blocks, but has {len(present)} "
            f"(first: {present[0].site.path}); call senet.remove(model) first"
        )
    plan = find_sites(model, example_input, config)
    if not plan.sites:
        raise NoSitesError(_nothing(model, plan))
    parameters = sum(p.numel() for p in model.parameters())
    # the sites are what was chosen; a function cannot be kept beside the weights
    kept = dataclasses.replace(config, include=None, exclude=None)
    attach(model, plan.sites, kept)
    return InsertionReport(plan.sites, plan.existing, plan.skipped, parameters, plan)


def _nothing(model: nn.Module, plan: SitePlan) -> str:
    text = f"no place for an SE block was found in this {type(model).__name__}: {plan.looked_at}"
    reasons = dict.fromkeys(reason for _, reason in plan.skipped)
    if reasons:
        text += f"; {len(plan.skipped)} units were skipped: {'; '.join(reasons)}"
    if plan.config.integration != "standard":
        return (
            text + f"; integration {plan.config.integration!r} needs residual units: try 'standard'"
        )
    if plan.config.existing == "skip" and plan.existing:
        return text + "; SEConfig(existing='add') inserts all the same"
    if (
        plan.config.include is not None
        or plan.config.exclude is not None
        or plan.config.stages is not None
    ):
        return text + "; loosen stages, include and exclude, and read senet.find_sites(...) first"
    return text


def remove(model: nn.Module) -> tuple[Site, ...]:
    """Take the inserted SE blocks away again, in place.

    Types, keys and code are then those of the base network. It keeps the weights that it has now;
    if the blocks were trained, the outputs change.

    Returns:
        The sites that had a block.

    Raises:
        InsertionError: the model has no inserted blocks.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU())
        >>> _ = insert(net, torch.zeros(1, 3, 8, 8))
        >>> len(remove(net)), type(net[1]).__name__
        (1, 'ReLU')
    """
    if not grafts(model):
        raise InsertionError(
            "the model must have SE blocks from senet.insert, but has none; "
            "there is nothing to remove"
        )
    return tuple(graft.site for graft in detach(model))


def se_modules(model: nn.Module) -> dict[str, SqueezeExcitation]:
    """Return every SE block of this library in a model, inserted or built in, by its path.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU())
        >>> _ = insert(net, torch.zeros(1, 3, 8, 8))
        >>> list(se_modules(net))
        ['1.se']
    """
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, SqueezeExcitation)
    }


def se_parameters(model: nn.Module) -> SEParameters:
    """Return the parameters of the SE blocks and those of everything else, each once.

    Freeze the rest, give SE its own rate, or extend an optimizer made before the insertion:

        groups = senet.se_parameters(model)
        for parameter in groups.base:
            parameter.requires_grad_(False)
        faster = {"params": groups.se, "lr": 0.1}
        optimizer = torch.optim.SGD([{"params": groups.base}, faster], lr=0.01)
        made_before.add_param_group(faster)

    Raises:
        InsertionError: the model has no SE block.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU())
        >>> _ = insert(net, torch.zeros(1, 3, 8, 8))
        >>> [len(group) for group in se_parameters(net)]
        [4, 2]
    """
    blocks = se_modules(model)
    if not blocks:
        raise InsertionError(
            "the model must have SE blocks, but has none; "
            "call senet.insert(model, example_input) first"
        )
    ours = {id(p): p for block in blocks.values() for p in block.parameters()}
    return SEParameters(list(ours.values()), [p for p in model.parameters() if id(p) not in ours])
