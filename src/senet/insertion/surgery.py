"""Insertion and removal: the calls that change a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from senet.blocks import ChannelScale, SqueezeExcitation
from senet.errors import InsertionError, NoSitesError
from senet.insertion.config import SEConfig
from senet.insertion.fused_forward import look_around
from senet.insertion.graft import (
    Graft,
    carry,
    grafts,
    grafts_of,
    lend_identity,
    strip,
)
from senet.insertion.guard import guarded, settle, unwatch, watch
from senet.insertion.refusals import check_model
from senet.insertion.site_plan import InsertionReport, Site, SitePlan
from senet.insertion.sites import find_sites

__all__ = [
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
    before = sum(p.numel() for p in model.parameters())
    report = InsertionReport(**vars(plan), base_parameters=before)
    # the sites are what was chosen; a function cannot be kept beside the weights
    attach(model, plan.sites, replace(config, include=None, exclude=None))
    return report


def _nothing(model: nn.Module, plan: SitePlan) -> str:
    config, advice = plan.config, ""
    if config.integration != "standard":
        advice = f"; integration {config.integration!r} needs residual units: try 'standard'"
    elif config.existing == "skip" and plan.existing:
        advice = "; SEConfig(existing='add') inserts all the same"
    elif (config.stages, config.include, config.exclude) != (None, None, None):
        advice = "; loosen stages, include and exclude, and read senet.find_sites(...) first"
    reasons = "; ".join(dict.fromkeys(reason for _, reason in plan.skipped))
    skipped = f"; {len(plan.skipped)} units were skipped: {reasons}" if reasons else ""
    what = f"no place for an SE block was found in this {type(model).__name__}"
    return f"{what}: {plan.looked_at}{skipped}{advice}"


def attach(model: nn.Module, sites: Iterable[Site], config: SEConfig) -> None:
    """Give every site its block.

    All is checked before the first change; on any failure the model is as before.

    Raises:
        InsertionError: a site is no module of the model, or has no name free for a block.
    """
    sites = tuple(sites)
    for site in sites:
        _place(model, site)
    with undone(model):
        options = config.block_options()
        blocks = [
            SqueezeExcitation(
                site.channels, hidden=site.hidden, **options, **_placement(model, site.path)
            )
            if site.hidden
            else ChannelScale(site.channels, **_placement(model, site.path))
            for site in sites
        ]
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
    module, name = _place(model, site)
    module.add_module(name, block.train(module.training))
    carry(module, (*grafts_of(module), Graft(name, site, config)))
    if site.where == "output":
        look_around(model, site.path)
    if site.where == "shortcut":
        lend_identity(model.get_submodule(site.block), site.path.removeprefix(site.block + "."))


def _place(model: nn.Module, site: Site) -> tuple[nn.Module, str]:
    """The module that a site names, and the name under which it can take its block."""
    try:
        module = model.get_submodule(site.path)
    except AttributeError as error:
        raise InsertionError(
            f"the site {site.path!r} must be a module of the model, but there is none in this "
            f"{type(model).__name__}; use the same base network as the sites were found on"
        ) from error
    names = _NAMES[site.where]
    taken = any(graft.site.where == site.where for graft in grafts_of(module))
    if taken or all(hasattr(module, name) for name in names):
        raise InsertionError(
            f"the module {site.path!r} must have {' or '.join(names)} free for its block, but has "
            "such an attribute already; exclude this site"
        )
    return module, next(name for name in names if not hasattr(module, name))


def _placement(model: nn.Module, path: str) -> dict[str, Any]:
    """Device and floating type of a module's parameters, else of those of what surrounds it."""
    module = model.get_submodule(path)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return {"device": tensor.device, "dtype": tensor.dtype}
    return _placement(model, path.rpartition(".")[0]) if path else {}


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
