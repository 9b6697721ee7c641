"""A copy of a network in which every SE block is a module of its own."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from senet.blocks import SEBatchNorm1d, SEBatchNorm2d, SEBatchNorm3d, SESyncBatchNorm
from senet.deploy.folding import is_plain
from senet.deploy.joins import move_hooks, one_argument, scale_identity
from senet.errors import InputError, InsertionError
from senet.insertion.graft import grafts
from senet.insertion.guard import settle
from senet.insertion.site_plan import Site
from senet.insertion.surgery import detach

__all__ = ["copied", "replace_module", "separate", "without_identities"]

_BASES: dict[type[nn.Module], type[nn.Module]] = {
    SEBatchNorm1d: nn.BatchNorm1d,
    SEBatchNorm2d: nn.BatchNorm2d,
    SEBatchNorm3d: nn.BatchNorm3d,
    SESyncBatchNorm: nn.SyncBatchNorm,
}


def copied(model: nn.Module) -> nn.Module:
    """Return a copy for inference, its parametrisations computed."""
    _check_network(model)
    # what torch's pruning and norms of weights computed for the last call, with its graph
    attributes = [value for module in model.modules() for value in vars(module).values()]
    computed = [each for each in attributes if isinstance(each, Tensor) and not each.is_leaf]
    try:
        net = copy.deepcopy(model, {id(each): each.detach() for each in computed})
    except Exception as error:
        raise InsertionError(
            f"the model must be one that copy.deepcopy can copy, but this "
            f"{type(model).__name__} is not: {error}"
        ) from error
    for module in list(net.modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                nn.utils.remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                nn.utils.remove_spectral_norm(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
        if parametrize.is_parametrized(module):
            # the copy shares its class with the original, from which torch would take the property
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
    return net.eval()


def _check_network(model: Any) -> None:
    """Refuse what cannot be read as a network."""
    if not isinstance(model, nn.Module):
        raise InputError(f"what is deployed must be a torch.nn.Module, got {type(model).__name__}")
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        raise InsertionError(
            "a network must be deployed before it is compiled, but this one is; deploy the network "
            "itself, then compile what comes back"
        )
    if any(each.is_meta for each in (*model.parameters(), *model.buffers())):
        raise InputError(
            "a network must have its weights to be deployed, but this one is on the meta device; "
            "load them first"
        )


def separate(net: nn.Module) -> list[nn.Sequential]:
    """Make every block inside another module a module of its own, behind or in front of it."""
    pairs: list[nn.Sequential] = []
    settle(net)
    inserted = grafts(net)
    blocks = [getattr(net.get_submodule(graft.site.path), graft.child) for graft in inserted]
    detach(net)
    _check_forwards(net)
    for graft, block in zip(inserted, blocks, strict=True):
        host = net.get_submodule(graft.site.path)
        if graft.site.where == "shortcut":
            _scale_identity(net, graft.site, block)
            continue
        pairs.append(_in_row(host, block, first=graft.site.where == "input"))
        replace_module(net, host, pairs[-1])
    for module in list(net.modules()):
        base = _BASES.get(type(module))
        if base is not None:
            block = module._modules.pop("se")
            module.__class__ = base
            pairs.append(_in_row(module, block, first=False))  # type: ignore[arg-type]
            replace_module(net, module, pairs[-1])
    return pairs


def _check_forwards(net: nn.Module) -> None:
    """Refuse a forward on an object that a copy does not take along: it runs the given network."""
    own = {id(module) for module in net.modules()}
    for path, module in net.named_modules():
        forward = vars(module).get("forward")
        if forward is not None and id(getattr(forward, "__self__", None)) not in own:
            raise InsertionError(
                f"the network must be one that can be copied, but a forward was set on "
                f"{path or 'it'!r} that goes on running the given one; take it off "
                "(accelerate: remove_hook_from_module(model, recurse=True)), then deploy"
            )


def _scale_identity(net: nn.Module, site: Site, block: nn.Module) -> None:
    module = net.get_submodule(site.block)
    scaled = scale_identity(module, site.path.removeprefix(site.block + "."), block)
    if scaled is None:
        raise InsertionError(
            f"a block on the identity can be deployed where torch.fx traces the residual block, "
            f"but not in {site.block!r}; remove the blocks, or insert them with another integration"
        )
    replace_module(net, module, scaled)


def _in_row(host: nn.Module, block: nn.Module, *, first: bool) -> nn.Sequential:
    """Return host and block in a row, the block first or last, with the hooks of the host."""
    if one_argument(host):
        pair = nn.Sequential(*((block, host) if first else (host, block)))
    else:
        pair = (_BlockFirst if first else _BlockLast)(host, block)
    move_hooks(host, pair)
    return pair


class _BlockLast(nn.Sequential):
    """A module of several arguments, and a block on its output."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self[1](self[0](*args, **kwargs))


class _BlockFirst(nn.Sequential):
    """A module of several arguments, and a block on the first of them."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return self[0](self[1](x), *args, **kwargs)


def without_identities(net: nn.Module, pairs: list[nn.Sequential]) -> None:
    """Put what is left of a batch norm and its block in the place of the two."""
    for pair in pairs:
        left = [part for part in pair if type(part) is not nn.Identity]
        if len(left) < 2 and is_plain(pair):
            replace_module(net, pair, left[0] if left else nn.Identity())


def replace_module(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, wherever that is a child."""
    for parent in list(net.modules()):
        if parent is not new:
            for name, child in parent._modules.items():
                if child is old:
                    parent._modules[name] = new
