"""The guard: a block that was inserted is run, or the next call of the network says that it is not.

Code that knows nothing of blocks may replace the module that carries one (a conversion of batch
norms, a fusion, a reparameterisation) or set a `forward` on an object, past its class. So the
network, and each of its parts with blocks, has a forward hook that looks before every call whether
the modules on the way to each block are there, and are what insertion made them: a dictionary
look-up or two for each. Only where that fails is anything else done:

- A block that was exchanged for another SE block is run as it is.
- A block that stands under a new module in the old one's place, as a conversion to SyncBatchNorm
  leaves it, is run by the new one from now on.
- A forward on the object that holds what the module ran before is what the block stands behind.
- A forward on the object of which that cannot be told is watched during the call.
- Else the call raises, and names the blocks that would not have been run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import FunctionType, MethodType
from typing import Any, final

import torch
from torch import nn

from senet.blocks import ChannelScale, SqueezeExcitation
from senet.blocks.host import Host
from senet.errors import InsertionError
from senet.insertion.graft import MARK, base_of, carry, grafts_of
from senet.insertion.site_plan import Site

__all__ = ["guarded", "settle", "unwatch", "watch"]

_RECORD = "_senet_guard"
_MOVED = "_senet_moved"  # of a module that was replaced: the one that carries its blocks now
_UNKNOWN = "unknown"  # in the place of a forward on an object that is not accepted yet


@final
@dataclass
class _Record:
    """What the hook of a module looks at.

    Attributes:
        hosts: the modules below that carry blocks, by path.
        accepted: forwards on objects on the way to them that are known to run them, by path.
        steps: the modules on the way, each behind its parent: the parent's index among these (0 is
            the module with the hook), the name there, the names and types of its blocks, and the
            forward on the object, None where there is none.
        name: of the module in the model that blocks were inserted into.
    """

    hosts: dict[str, nn.Module]
    accepted: dict[str, Any]
    name: str
    steps: tuple[tuple[int, str, tuple[tuple[str, type], ...], Any], ...] = ()


def watch(model: nn.Module) -> None:
    """Begin to guard the blocks of a model: for the model, and for its children that have some."""
    for name, part in (*model.named_children(), ("", model)):
        hosts = _hosts(part)
        if hosts and "" not in hosts:
            on_the_way = _on_the_way(part, hosts).items()
            accepted = {p: vars(m)["forward"] for p, m in on_the_way if "forward" in vars(m)}
            _note(part, _Record(hosts, accepted, name))


def unwatch(module: nn.Module) -> None:
    """Take the guard of one module away."""
    vars(module).pop(_RECORD, None)
    for key in [k for k, hook in module._forward_pre_hooks.items() if hook is _look]:
        del module._forward_pre_hooks[key]


def guarded(model: nn.Module) -> bool:
    """Whether there is a guard, also where no block is left."""
    return any(_RECORD in vars(module) for module in model.modules())


def settle(model: nn.Module, *, strict: bool = True) -> None:
    """Do now what would be done before the next call.

    Args:
        model: the network.
        strict: refuse a network that has lost blocks; else see to the others only.

    Raises:
        InsertionError: blocks would not be run; the message names them.
    """
    for module in list(model.modules()):
        record = vars(module).get(_RECORD)
        if record is not None and not _holds(module, record):
            try:
                _settle(module)
            except InsertionError:
                if strict:
                    raise


def _look(module: nn.Module, _: Any) -> None:
    """The hook."""
    record = module.__dict__.get(_RECORD)
    if record is not None and not _holds(module, record):
        unproven = _settle(module)
        if unproven:
            _follow(module, unproven)


_look.only_looks = True  # type: ignore[attr-defined]


def _holds(root: nn.Module, record: _Record) -> bool:
    """Whether all is as noted. This runs before every call: no more than look-ups."""
    modules = [root]
    for parent, name, blocks, forward in record.steps:
        module = modules[parent]._modules.get(name) if name else root
        if module is None or module.__dict__.get("forward") is not forward:
            return False
        if blocks:
            if not (MARK in module.__dict__ and isinstance(module, Host)):
                return False
            for child, kind in blocks:
                if type(module._modules.get(child)) is not kind:
                    return False
        modules.append(module)
    return True


def _carries(module: nn.Module) -> bool:
    """Whether a module has blocks, and a class that runs them."""
    return MARK in module.__dict__ and isinstance(module, Host)


def _is_for(site: Site, module: nn.Module) -> bool:
    return _carries(module) and grafts_of(module)[0].site == site


def _hosts(root: nn.Module) -> dict[str, nn.Module]:
    modules = root.named_modules(remove_duplicate=False)
    return {path: module for path, module in modules if _carries(module)}


def _on_the_way(root: nn.Module, hosts: Iterable[str]) -> dict[str, nn.Module]:
    """The module itself, and those above hosts and the hosts, each behind its parent."""
    way = {"": root}
    for path in hosts:
        names = path.split(".")
        for depth in range(1, len(names) + 1):
            way.setdefault(".".join(names[:depth]), root.get_submodule(".".join(names[:depth])))
    return way


def _note(root: nn.Module, record: _Record) -> None:
    """Write down the way to the blocks as it is now."""
    way = _on_the_way(root, record.hosts)
    indices = {path: index for index, path in enumerate(way, start=1)}
    steps = []
    for path, module in way.items():
        parent, _, name = path.rpartition(".")
        forward = record.accepted.get(path, _UNKNOWN) if "forward" in vars(module) else None
        marks = grafts_of(module) if _carries(module) else ()
        blocks = tuple((mark.child, type(module._modules.get(mark.child))) for mark in marks)
        steps.append((indices[parent] if path else 0, name, blocks, forward))
    vars(root)[_RECORD] = replace(record, steps=tuple(steps))
    if _look not in root._forward_pre_hooks.values():
        root.register_forward_pre_hook(_look)


def _settle(root: nn.Module) -> dict[str, nn.Module]:
    """Carry along what can be carried, refuse the rest, and note what is there now.

    Returns:
        Modules with a forward on the object of which it cannot be told whether it runs the blocks.
    """
    record: _Record = vars(root)[_RECORD]
    # hosts without a mark: their blocks were removed, not lost
    marked = {path: host for path, host in record.hosts.items() if grafts_of(_latest(host))}
    lost = {path: _reason(root, path, host, record) for path, host in marked.items()}
    hosts = _hosts(root)
    lost |= {path: why for path, host in hosts.items() if (why := _without_block(host))}
    if any(lost.values()):
        raise _error(root, lost)
    accepted, unproven = {}, {}
    for path, module in _on_the_way(root, hosts).items():
        forward = vars(module).get("forward")
        if forward is None:
            continue
        if forward is record.accepted.get(path) or _holds_on_to(forward, type(module).forward):
            accepted[path] = forward
        elif grafts_of(module) and _holds_on_to(forward, base_of(module).forward):
            carry(module, grafts_of(module))
        else:
            unproven[path] = module
    if hosts:
        _note(root, _Record(hosts, accepted, record.name))
    else:
        unwatch(root)
    return unproven


# While a graph is compiled, this is a break in it.
_settle._torchdynamo_disable = True  # type: ignore[attr-defined]
_settle._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
    "the model was changed after senet.insert, and blocks may be lost: call it once, not compiled"
)


def _reason(root: nn.Module, path: str, host: nn.Module, record: _Record) -> str:
    """Why blocks would not be run; nothing if they are, also where they can be carried along."""
    marks, here = grafts_of(host), root
    for name in path.split("."):
        here = None if here is None else here._modules.get(name)  # type: ignore[assignment]
    if here is not None:
        if _is_for(marks[0].site, here):
            return ""
        blocks = {mark.child: host._modules.get(mark.child) for mark in marks}
        if all(block and here._modules.get(name) is block for name, block in blocks.items()):
            carry(here, marks)
            vars(host)[_MOVED] = here
            vars(here).pop(_MOVED, None)  # it may be the host itself, or one that came back
            return ""
    # the module may stand elsewhere, as where a part was wrapped
    now = [p for p, module in _hosts(root).items() if _is_for(marks[0].site, module)]
    before = [p for p, module in record.hosts.items() if _is_for(marks[0].site, module)]
    if any("base_layer" in p.split(".") for p in set(now) - set(before)):
        return "in an adapter's base layer"
    if len(now) >= len(before):
        return ""
    return "not there" if here is None else f"now a {type(here).__name__}"


def _latest(host: nn.Module) -> nn.Module:
    """The module that carries the blocks of a host now, also where other records know of it."""
    while _MOVED in vars(host):
        host = vars(host)[_MOVED]
    return host


def _without_block(host: nn.Module) -> str:
    """Which child of a host is no SE block any more, nor a wrapper around one; else nothing."""
    for mark in grafts_of(host):
        block = host._modules.get(mark.child)
        if block is None:
            return f"its child {mark.child} is gone"
        kinds = SqueezeExcitation, ChannelScale
        if not any(isinstance(module, kinds) for module in block.modules()):
            return f"its child {mark.child} is of class {type(block).__name__} now"
    return ""


def _error(root: nn.Module, reasons: dict[str, str]) -> InsertionError:
    name = vars(root)[_RECORD].name
    lost = [f"{name}.{path}".strip(".") + f" ({why})" for path, why in reasons.items() if why]
    more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
    return InsertionError(
        f"every SE block must be run, but what was done to the {type(root).__name__} since "
        f"senet.insert has left out {len(lost)}: {', '.join(lost[:8])}{more}; do that first, and "
        "insert (or senet.load) then, or call senet.remove(model) if the blocks are to go"
    )


def _holds_on_to(forward: Any, function: Any) -> bool:
    """Whether a function is in what a callable wraps, binds, or closes over."""
    waiting, seen = [forward], set[int]()
    while waiting and len(seen) < 1000:
        thing = waiting.pop()
        if thing is function:
            return True
        if id(thing) not in seen and not isinstance(thing, nn.Module | type | torch.Tensor):
            seen.add(id(thing))
            waiting += _inside(thing)
    return False


def _inside(thing: Any) -> Iterator[Any]:
    if isinstance(thing, MethodType):
        yield from (thing.__func__, thing.__self__)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, FunctionType):
        yield from (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
        for cell in thing.__closure__ or ():
            with suppress(ValueError):  # an empty cell
                yield cell.cell_contents
    if callable(thing) and hasattr(thing, "__dict__"):
        yield from vars(thing).values()  # __wrapped__, or the attributes of a callable object


def _follow(root: nn.Module, unproven: dict[str, nn.Module]) -> None:
    """See in the call that begins whether forwards on objects run the blocks below them."""
    ran = {("", "")}  # paths, of hosts with the name of the block; the root is called now
    blocks = {
        path: {
            (f"{path}.{name}".strip("."), graft.child): host._modules[graft.child]
            for name, host in module.named_modules()
            for graft in grafts_of(host)
        }
        for path, module in unproven.items()
    }

    def adds(what: tuple[str, str]) -> Callable[..., None]:
        return lambda *_: ran.add(what)

    def end(_: nn.Module, __: Any, output: Any) -> None:
        for handle in handles:
            handle.remove()
        if output is None:
            return  # the call has failed
        called = {path: module for path, module in unproven.items() if (path, "") in ran}
        lost = {
            host: f"passed over by the forward that was set on {path or 'the model'!r}"
            for path in called
            for host, name in blocks[path]
            if (host, name) not in ran
        }
        if lost:
            raise _error(root, lost)
        record: _Record = vars(root)[_RECORD]
        proven = {path: vars(module).get("forward") for path, module in called.items()}
        _note(root, replace(record, accepted={**record.accepted, **proven}))

    handles = [m.register_forward_pre_hook(adds((path, ""))) for path, m in unproven.items()]
    for what, block in (item for each in blocks.values() for item in each.items()):
        handles.append(block.register_forward_hook(adds(what)))
    handles.append(root.register_forward_hook(end, always_call=True))
