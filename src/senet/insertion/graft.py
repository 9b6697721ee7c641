"""How a module gets an SE block without being replaced: by an exchange of its class.

The new class is a subclass of the old one that runs the block as well.
The module stays the same object, with its parameters, buffers, hooks and every reference to it;
only its class changes and it gets one more child. So no key of the state dict changes, an optimizer
made before keeps its parameters, a module used in several places carries one block, and taking the
block away is exact. A batch norm becomes the SE batch norm of its kind.

Others exchange classes as well (`torch.nn.utils.parametrize`, `fully_shard`): theirs is a class in
front, made for the one object. It stays in front whichever came first, so each can go in any order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor, nn
from torch.nn.utils import parametrize

from senet.blocks import (
    SEBatchNorm1d,
    SEBatchNorm2d,
    SEBatchNorm3d,
    SESyncBatchNorm,
    SqueezeExcitation,
)
from senet.blocks.fusion import batch_norm_se, fusible
from senet.blocks.host import Host, as_leaf
from senet.insertion.config import SEConfig
from senet.insertion.site_plan import Site

__all__ = [
    "MARK",
    "Exchanged",
    "Graft",
    "base_of",
    "carry",
    "exchange",
    "forward_without",
    "grafts",
    "grafts_of",
    "lend_identity",
    "lends",
    "made_class",
    "rebase",
    "strip",
]

# attributes: the blocks of a module; paths to the modules that are lent an identity; that identity;
# a forward of the object's own; of a class in front, the one that it took the place of
MARK, _TAPS, _IDENTITY = "_senet_graft", "_senet_taps", "_senet_identity"
_INNER, _BEFORE = "_senet_forward", "_senet_before"
_RUNNING = "running"  # in the place of a forward of the object's own, while it runs


@final
@dataclass(frozen=True)
class Graft:
    """A block that a module got: the name of the child, and why it is there."""

    child: str
    site: Site
    config: SEConfig


class Exchanged(nn.Module):
    """A module whose class was made at run time, from one of these and what it was before."""

    _senet_base: type[nn.Module]  # what it was

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A pickle or a copy names the two classes that this one was made from. What the class says
        # of its own copies holds for the base; what insertion has left comes on top.
        reduced: Any = super().__reduce_ex__(protocol)
        made = _inner(self)
        if made is not type(self):
            return reduced  # a class in front has the word
        function, arguments, *rest = reduced
        function = self._senet_base if function is made else function
        arguments = tuple(self._senet_base if a is made else a for a in arguments)
        state = _State(rest[0] if rest else None, *_inserted_into(self))
        return _built, (made.__bases__[0], self._senet_base, function, arguments), state, *rest[1:]

    def __setstate__(self, state: Any) -> None:
        """Take a state of the base, and what insertion had left beside it."""
        if not isinstance(state, _State):
            super().__setstate__(state)  # type: ignore[no-untyped-call]
            return
        if state.base is not None:
            super().__setstate__(state.base)  # type: ignore[no-untyped-call]
        vars(self).update(state.attributes)
        self._modules.update(state.blocks)


@final
@dataclass(frozen=True)
class _State:
    base: Any
    attributes: dict[str, Any]
    blocks: dict[str, nn.Module | None]


def _inserted_into(module: nn.Module) -> tuple[dict[str, Any], dict[str, nn.Module | None]]:
    """What insertion has left on a module: attributes, and children by name."""
    attributes = {name: vars(module)[name] for name in (MARK, _TAPS) if name in vars(module)}
    if _IDENTITY in vars(module):
        attributes[_IDENTITY] = None
    children = module._modules
    names = [graft.child for graft in grafts_of(module) if graft.child in children]
    return attributes, {name: children[name] for name in names}


def _built(
    mixin: type[nn.Module], base: type[nn.Module], function: Any, arguments: Any
) -> nn.Module:
    module = function(*arguments)
    module.__class__ = made_class(base, mixin)
    return module  # type: ignore[no-any-return]


class _WithSE(Exchanged, Host):
    """A module with an SE block on its input, on its output, or on the identity beside its output.

    Or the block of layers whose input such an identity is: it lends it to the module, see `_TAPS`.
    """

    # a forward that was set on the object before, in the place of the class's own
    _senet_forward: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, _WithSE) or self._senet_forward is _RUNNING:
            before = super().forward if isinstance(self, _WithSE) else forward_without(self)
            return before(*args, **kwargs)
        x: Any = args[0] if len(args) == 1 and not kwargs else None
        se = self.block_inside(x)
        if se is not None:
            return batch_norm_se(self, se, x)
        if not isinstance(x, Tensor) and (node := self._as_leaf(x)) is not None:
            return node
        taps = [self.get_submodule(path) for path in getattr(self, _TAPS, ())]
        for module in taps:
            setattr(module, _IDENTITY, args[0])
        blocks = {graft.site.where: getattr(self, graft.child) for graft in grafts_of(self)}
        if "input" in blocks:
            args = (blocks["input"](args[0]), *args[1:])
        inner = self._senet_forward
        if inner is None:
            output = super().forward(*args, **kwargs)
        else:
            output = self._run(inner, args, kwargs)
        for module in taps:
            setattr(module, _IDENTITY, None)
        if "output" in blocks:
            output = blocks["output"](output)
        if "shortcut" in blocks:
            # the network adds the identity x: s x = x + (s x - x), and the bracket is 0 where s = 1
            identity = getattr(self, _IDENTITY)
            output = output + (blocks["shortcut"](identity) - identity)
        return output

    def _run(self, inner: Any, args: Any, kwargs: Any) -> Any:
        """Run a forward that may look up the class's, and then means what that was before."""
        vars(self)[_INNER] = _RUNNING
        try:
            return inner(*args, **kwargs)
        finally:
            vars(self)[_INNER] = inner

    def block_inside(self, x: Any, *, training: bool = False) -> SqueezeExcitation | None:
        """Return the block if it and this module, a batch norm, are one op for x, else None."""
        marks = grafts_of(self)
        if len(marks) != 1 or marks[0].site.where != "output" or lends(self):
            return None
        se = getattr(self, marks[0].child)
        return se if fusible(self, self._senet_base, se, x, training=training) else None

    def _as_leaf(self, x: Any) -> Any:
        """Return the call as one node where torch.fx is tracing and only blocks are below."""
        leaf = _IDENTITY not in vars(self) and set(self._modules) <= set(self._inserted())
        return as_leaf(self, x) if leaf else None


# classes that have an SE form of their own; for others one is made when it is first needed
_KNOWN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SEBatchNorm1d,
    nn.BatchNorm2d: SEBatchNorm2d,
    nn.BatchNorm3d: SEBatchNorm3d,
    nn.SyncBatchNorm: SESyncBatchNorm,
}
_made: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def made_class(base: type[nn.Module], mixin: type[nn.Module]) -> type[nn.Module]:
    """Return the class of modules of the class `base` that do what `mixin` says."""
    if (base, mixin) not in _made:
        doc = f"`{base.__module__}.{base.__qualname__}` with an SE block."
        space: dict[str, Any] = {"__doc__": doc, "__module__": __name__, "_senet_base": base}
        if hasattr(base, "__deepcopy__"):
            space["__deepcopy__"] = _deepcopy
        _made[base, mixin] = type(f"{base.__name__}WithSE", (mixin, base), space)
    return _made[base, mixin]


def _deepcopy(self: Any, memo: dict[int, Any]) -> nn.Module:
    """Copy as the base says, then what insertion has left."""
    twin: Any = self._senet_base.__deepcopy__(self, memo)
    twin.__class__ = _inner(self)
    twin.__setstate__(_State(None, *copy.deepcopy(_inserted_into(self), memo)))
    return twin  # type: ignore[no-any-return]


def _inner(module: nn.Module) -> type[nn.Module]:
    """The class of a module without those that others have put in front of it."""
    kind = type(module)
    for base in kind.__mro__:
        if "_senet_base" in vars(base) or base in _KNOWN.values():
            return base
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def exchange(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give a module another class, behind those that others have put in front."""
    if _inner(module) is not kind:
        module.__class__ = _in_front(type(module), _inner(module), kind)


def _in_front(front: type[Any], old: type[Any], new: type[Any]) -> type[Any]:
    """Return a class like `front` that is derived from `new` where `front` is from `old`."""
    if front is old:
        return new
    bases = tuple(_in_front(b, old, new) if issubclass(b, old) else b for b in front.__bases__)
    own = {"__dict__", "__weakref__", _BEFORE}
    space = {name: value for name, value in vars(front).items() if name not in own}
    before = vars(front).get(_BEFORE)
    if before and before.__bases__ == bases and vars(before).keys() - own == space.keys():
        return before  # type: ignore[no-any-return]
    name = front.__name__.replace(old.__name__, new.__name__)
    metaclass: Any = type(front)
    made: type[Any] = metaclass(name, bases, {**space, _BEFORE: front})
    return made


def grafts_of(module: nn.Module) -> tuple[Graft, ...]:
    """The blocks that were inserted into a module."""
    return getattr(module, MARK, ())


def base_of(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before any exchange."""
    inner: Any = _inner(module)
    if inner in _KNOWN.values():  # one without a mark was built with its block
        return inner._plain if grafts_of(module) else inner  # type: ignore[no-any-return]
    return getattr(inner, "_senet_base", inner)  # type: ignore[no-any-return]


def carry(module: nn.Module, marks: Iterable[Graft]) -> None:
    """Make a module run the blocks that are its children under the names of `marks`.

    A forward that was set on the object is what they stand behind, or before, from now on.
    """
    base, own = base_of(module), vars(module)
    own[MARK] = marks = tuple(marks)
    if any(graft.site.where == "shortcut" for graft in marks):
        own[_IDENTITY] = None
    _take_forward(module)
    alone = [graft.child for graft in marks] == ["se"] and not {_TAPS, _INNER} & own.keys()
    exchange(module, (alone and _KNOWN.get(base)) or made_class(base, _WithSE))


def _take_forward(module: nn.Module) -> None:
    """Keep a forward of the object's own as what the class runs."""
    own = vars(module)
    if "forward" in own:
        own[_INNER] = own.pop("forward")


def forward_without(module: Any) -> Any:
    """Return what runs where other code has kept a forward of the class that a module had before.

    Such a method still runs after `senet.remove`, on a module of another class.
    """
    return vars(module).get(_INNER) or type(module).forward.__get__(module)


def lend_identity(block: nn.Module, path: str) -> None:
    """Let a block of layers give its input to the module at `path` below it."""
    _take_forward(block)
    exchange(block, made_class(base_of(block), _WithSE))
    vars(block)[_TAPS] = (*vars(block).get(_TAPS, ()), path)


def lends(module: nn.Module) -> bool:
    """Whether a module runs more than its class and its blocks: it lends, or had a forward set."""
    return _TAPS in vars(module) or _INNER in vars(module)


def strip(module: nn.Module) -> None:
    """Make a module what it was, without its blocks."""
    base, own = base_of(module), vars(module)
    for graft in grafts_of(module):
        module._modules.pop(graft.child, None)
    for name in (MARK, _IDENTITY, _TAPS):
        own.pop(name, None)
    if _INNER in own and "forward" not in own:  # else what was set later may lead to it
        own["forward"] = own.pop(_INNER)
    exchange(module, base)


def rebase(module: nn.Module, base: type[nn.Module]) -> None:
    """Make a module one of the class `base` in place of its own; its blocks stay.

    A batch norm that was built with its block, a `SEBatchNorm2d`, becomes the SE form of `base`.
    """
    if _inner(module) in _KNOWN.values() and base in _KNOWN:
        exchange(module, _KNOWN[base])
    else:
        with_block = grafts_of(module) or isinstance(module, _WithSE)
        exchange(module, made_class(base, _WithSE) if with_block else base)


def grafts(model: nn.Module) -> list[Graft]:
    """Return the inserted blocks of a model, in the order of its modules."""
    return [
        replace(graft, site=_seen_from(graft.site, path))
        for path, module in model.named_modules()
        for graft in grafts_of(module)
    ]


def _seen_from(site: Site, path: str) -> Site:
    """A site whose module is at `path` now, as a network may become a part of a larger one."""
    block = site.block
    if path.endswith("." + site.path):
        block = (path.removesuffix(site.path) + block).rstrip(".")
    elif site.path.endswith("." + path):
        block = block.removeprefix(site.path.removesuffix(path))
    return replace(site, path=path, block=block)
