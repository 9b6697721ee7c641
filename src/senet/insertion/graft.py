"""How a module gets an SE block without being replaced: by an exchange of its class.

The new class is a subclass of the old one that runs the block as well.
The module stays the same object, with its parameters, buffers, hooks and every reference to it;
only its class changes and it gets one more child. So no key of the state dict changes, an optimizer
made before keeps its parameters, a module used in several places carries one block, and taking the
block away is exact. A batch norm becomes the SE batch norm of its kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import nn

from senet.blocks import (
    SEBatchNorm1d,
    SEBatchNorm2d,
    SEBatchNorm3d,
    SESyncBatchNorm,
    SqueezeExcitation,
)
from senet.blocks.fusion import activation_inside, batch_norm_se, fusible
from senet.blocks.squeeze_excitation import hooked
from senet.errors import InsertionError
from senet.insertion.config import SEConfig
from senet.insertion.site_plan import Site
from senet.insertion.tails import tail_of

__all__ = ["Graft", "attach", "base_of", "detach", "grafts", "rebase"]

# where a block works: the names for the child, the first that is free
_NAMES = {
    "output": ("se", "se_out"),
    "input": ("se_in",),
    "shortcut": ("se_shortcut",),
}
_MARK, _TAPS, _IDENTITY = "_senet_graft", "_senet_taps", "_senet_identity"


@final
@dataclass(frozen=True)
class Graft:
    """What a module was before it got a block, and which block it got."""

    base: type[nn.Module]
    child: str
    site: Site
    config: SEConfig


class _Exchanged(nn.Module):
    """A module whose class was made at run time, from one of these and what it was before."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # a pickle or a copy names the class that this one was made from
        return _blank, type(self).__bases__, self.__dict__


class _WithSE(_Exchanged):
    """A module with an SE block on its input, on its output, or on the identity beside its output.

    Or the block of layers whose input such an identity is: it lends it to the module, see `_TAPS`.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        se = self.block_inside(args[0]) if len(args) == 1 and not kwargs else None
        if se is not None:
            return batch_norm_se(self, se, args[0])
        taps = [self.get_submodule(path) for path in getattr(self, _TAPS, ())]
        for module in taps:
            setattr(module, _IDENTITY, args[0])
        blocks = {graft.site.where: getattr(self, graft.child) for graft in _grafts_of(self)}
        if "input" in blocks:
            args = (blocks["input"](args[0]), *args[1:])
        output = super().forward(*args, **kwargs)
        for module in taps:
            setattr(module, _IDENTITY, None)
        if "output" in blocks:
            output = blocks["output"](output)
        if "shortcut" in blocks:
            # the network adds the identity x: s x = x + (s x - x), and the bracket is 0 where s = 1
            identity = getattr(self, _IDENTITY)
            output = output + (blocks["shortcut"](identity) - identity)
        return output

    def block_inside(self, x: Any) -> SqueezeExcitation | None:
        """Return the block if it and this module, a batch norm, are one op for x, else None."""
        found = _grafts_of(self)
        if len(found) != 1 or found[0].site.where != "output" or _TAPS in vars(self):
            return None
        se = getattr(self, found[0].child)
        return se if fusible(self, found[0].base, se, x) else None


class _InOrder(_Exchanged):
    """Modules in order, among them a batch norm and then an activation with an SE block."""

    def forward(self, input: Any) -> Any:  # noqa: A002 - the name in torch.nn.Sequential
        """Return the last module's output; the three are one op where they can be."""
        x, modules = input, list(self._modules.values())
        following = [*modules[1:], None]
        skip = False
        for module, follower in zip(modules, following, strict=True):
            if skip:
                skip = False
                continue
            y = _three_in_one(module, follower, x)
            skip = y is not None
            x = module(x) if y is None else y  # type: ignore[misc]
        return x


def _three_in_one(norm: Any, act: Any, x: Any) -> Any:
    """Return act(norm(x)), act being an activation with a block, if it is one op, else None."""
    found = _grafts_of(act) if isinstance(act, _WithSE) else ()
    if len(found) != 1 or found[0].site.where != "output" or _TAPS in vars(act) or hooked(norm):
        return None
    se = getattr(act, found[0].child)
    inside = activation_inside(norm, type(norm), act, found[0].base, se, x)
    return None if inside is None else batch_norm_se(norm, se, x, inside=inside)


class _WithTail(_Exchanged):
    """A residual block of a known class, whose last norm has an SE block: it ends in one op."""

    def forward(self, x: Any) -> Any:
        """Return what its own forward returns."""
        tail = tail_of(base_of(self))
        if tail is None or not tail.fits(self):
            return super().forward(x)
        return tail.forward(self, x)


# classes that have an SE form of their own; for others one is made when it is first needed
_KNOWN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SEBatchNorm1d,
    nn.BatchNorm2d: SEBatchNorm2d,
    nn.BatchNorm3d: SEBatchNorm3d,
    nn.SyncBatchNorm: SESyncBatchNorm,
}
_made: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def _class(base: type[nn.Module], mixin: type[nn.Module]) -> type[nn.Module]:
    """Return the class of modules of the class `base` that do what `mixin` says."""
    if (base, mixin) not in _made:
        doc = f"`{base.__module__}.{base.__qualname__}` with an SE block."
        space = {"__doc__": doc, "__module__": __name__}
        _made[base, mixin] = type(f"{base.__name__}WithSE", (mixin, base), space)
    return _made[base, mixin]


def _with_se(base: type[nn.Module]) -> type[nn.Module]:
    return _class(base, _WithSE)


def _blank(mixin: type[nn.Module], base: type[nn.Module]) -> nn.Module:
    made = _class(base, mixin)
    return made.__new__(made)


def _grafts_of(module: nn.Module) -> tuple[Graft, ...]:
    return getattr(module, _MARK, ())


def base_of(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before any exchange."""
    for graft in _grafts_of(module):
        return graft.base
    return type(module).__bases__[1] if isinstance(module, _Exchanged) else type(module)


def rebase(module: nn.Module, base: type[nn.Module]) -> None:
    """Make a module one of the class `base` in place of its own; its blocks stay.

    A batch norm that was built with its block, a `SEBatchNorm2d`, becomes the SE form of `base`.
    """
    found = _grafts_of(module)
    kind = base
    if type(module) in _KNOWN.values():
        kind = _KNOWN[base]
    elif isinstance(module, _WithSE):
        kind = _with_se(base)
    module.__class__ = kind
    if found:
        vars(module)[_MARK] = tuple(replace(graft, base=base) for graft in found)


def grafts(model: nn.Module) -> list[Graft]:
    """Return the inserted blocks of a model, in the order of its modules."""
    return [
        replace(graft, site=_seen_from(graft.site, path))
        for path, module in model.named_modules()
        for graft in _grafts_of(module)
    ]


def _seen_from(site: Site, path: str) -> Site:
    """A site whose module is at `path` now, as a network may become a part of a larger one."""
    block = site.block
    if path.endswith("." + site.path):
        block = (path.removesuffix(site.path) + block).rstrip(".")
    elif site.path.endswith("." + path):
        block = block.removeprefix(site.path.removesuffix(path))
    return replace(site, path=path, block=block)


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
    taken = any(graft.site.where == site.where for graft in _grafts_of(module))
    for name in _NAMES[site.where]:
        if not taken and not hasattr(module, name):
            return name
    names = " or ".join(_NAMES[site.where])
    raise InsertionError(
        f"the module {site.path!r} must have {names} free for its block, but has such an "
        "attribute already; exclude this site"
    )


def attach(model: nn.Module, sites: Iterable[Site], config: SEConfig) -> None:
    """Give every site its block.

    All is checked before the first change; on any failure the model is as before.
    """
    sites = tuple(sites)
    for site in sites:
        _check(model, site)
    blocks = []
    for site in sites:
        device, dtype = _placement(model, site.path)
        options = config.block_options()
        blocks.append(
            SqueezeExcitation(
                site.channels, hidden=site.hidden, device=device, dtype=dtype, **options
            )
        )
    try:
        for site, block in zip(sites, blocks, strict=True):
            module = model.get_submodule(site.path)
            block.train(module.training)
            _attach(model, module, site, config, block)
    except BaseException:
        detach(model)
        raise


def _attach(
    model: nn.Module, module: nn.Module, site: Site, config: SEConfig, block: nn.Module
) -> None:
    base, child = base_of(module), _child_name(module, site)
    alone = not _grafts_of(module) and _TAPS not in vars(module)
    known = _KNOWN.get(base) if child == "se" and alone else None
    vars(module)[_MARK] = (*_grafts_of(module), Graft(base, child, site, config))
    module.__class__ = known or _with_se(base)
    module.add_module(child, block)
    if site.where == "output":
        _look_around(model, site)
    if site.where == "shortcut":
        tapped = model.get_submodule(site.block)
        tapped.__class__ = _with_se(base_of(tapped))
        vars(module)[_IDENTITY] = None
        vars(tapped)[_TAPS] = (
            *vars(tapped).get(_TAPS, ()),
            site.path.removeprefix(site.block + "."),
        )


def _look_around(model: nn.Module, site: Site) -> None:
    """Let what calls a module see how its block can be one op with the modules around it.

    That is behind a batch norm's activation, or at the end of a residual block.
    """
    parent, _, name = site.path.rpartition(".")
    around = model.get_submodule(parent)
    tail = tail_of(type(around))
    if tail is not None and name == tail.norm:
        around.__class__ = _class(type(around), _WithTail)
    if type(around).forward is nn.Sequential.forward:
        names = list(around._modules)
        before = names[: names.index(name)][-1:]
        if before and isinstance(around._modules[before[0]], nn.modules.batchnorm._BatchNorm):
            around.__class__ = _class(type(around), _InOrder)


def detach(model: nn.Module) -> list[Graft]:
    """Take every inserted block away and return what there was."""
    found = grafts(model)
    for module in list(model.modules()):
        base = base_of(module)
        for graft in _grafts_of(module):
            module._modules.pop(graft.child, None)
        for name in (_MARK, _IDENTITY, _TAPS):
            vars(module).pop(name, None)
        if type(module) is not base:
            module.__class__ = base
    return found
