"""Insertion and removal: the calls that change a model, and what they report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import nn

from senet.blocks import SqueezeExcitation
from senet.errors import InsertionError, NoSitesError
from senet.insertion.config import SEConfig
from senet.insertion.fused_forward import look_around
from senet.insertion.graft import (
    Graft,
    base_of,
    carry,
    grafts,
    grafts_of,
    lend_identity,
    strip,
)
from senet.insertion.guard import guarded, settle, unwatch, watch
from senet.insertion.refusals import check_model
from senet.insertion.site_plan import Site, SitePlan
from senet.insertion.sites import find_sites

__all__ = [
    "InsertionReport",
    "SEParameters",
    "attach",
    "detach",
    "insert",
    "remove",
    "se_modules",
    "se_parameters",
    "undone",
]

# where a block works: the names for the child, the first that is free
_NAMES = {
    "output": ("se", "se_out"),
    "input": ("se_in",),
    "shortcut": ("se_shortcut",),
}


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
        InsertionError: the model has inserted blocks already, or has lost some; or it, or a part of
            it, is compiled, wrapped, traced, scripted, quantised or lazy. Nothing is changed.
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
    settle(model)
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


def attach(model: nn.Module, sites: Iterable[Site], config: SEConfig) -> None:
    """Give every site its block.

    All is checked before the first change; on any failure the model is as before.

    Raises:
        InsertionError: a site is no module of the model, or has no name free for a block.
    """
    sites = tuple(sites)
    for site in sites:
        _check(model, site)
    with undone(model):
        blocks = []
        for site in sites:
            device, dtype = _placement(model, site.path)
            options = config.block_options()
            blocks.append(
                SqueezeExcitation(
                    site.channels, hidden=site.hidden, device=device, dtype=dtype, **options
                )
            )
        for site, block in zip(sites, blocks, strict=True):
            _attach(model, site, config, block)
        watch(model)


@contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """Take every block away if what is inside fails, and put back the generator of torch."""
    generator = torch.get_rng_state()
    try:
        yield
    except BaseException:
        detach(model)
        torch.set_rng_state(generator)
        raise


def _attach(model: nn.Module, site: Site, config: SEConfig, block: nn.Module) -> None:
    module = model.get_submodule(site.path)
    block.train(module.training)
    graft = Graft(base_of(module), _child_name(module, site), site, config)
    module.add_module(graft.child, block)
    carry(module, (*grafts_of(module), graft))
    if site.where == "output":
        look_around(model, site.path)
    if site.where == "shortcut":
        lend_identity(model.get_submodule(site.block), site.path.removeprefix(site.block + "."))


def _check(model: nn.Module, site: Site) -> None:
    try:
        module = model.get_submodule(site.path)
    except AttributeError as error:
        raise InsertionError(
            f"the site {site.path!r} must be a module of the model, but there is none in this "
            f"{type(model).__name__}; use the same base network as the sites were found on"
        ) from error
    _child_name(module, site)


def _child_name(module: nn.Module, site: Site) -> str:
    """The name under which a module can take its block."""
    taken = any(graft.site.where == site.where for graft in grafts_of(module))
    for name in _NAMES[site.where]:
        if not taken and not hasattr(module, name):
            return name
    names = " or ".join(_NAMES[site.where])
    raise InsertionError(
        f"the module {site.path!r} must have {names} free for its block, but has such an "
        "attribute already; exclude this site"
    )


def _placement(model: nn.Module, path: str) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and floating type of a module's parameters, else of those of what surrounds it."""
    while True:
        module = model.get_submodule(path)
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
        if not path:
            return None, None
        path = path.rpartition(".")[0]


def detach(model: nn.Module) -> list[Graft]:
    """Take every inserted block away and return what there was."""
    present = grafts(model)
    for module in list(model.modules()):
        unwatch(module)
        strip(module)
    return present


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
    settle(model, strict=False)
    if not grafts(model) and not guarded(model):
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
