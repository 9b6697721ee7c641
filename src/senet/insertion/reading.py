"""Reading changes nothing: what running a model changes is put back, also after an error.

The model itself is run, not a copy: some cannot be copied, and a copy takes as much memory again.
So its state is noted before (attributes and containers by reference, nothing is copied), and a
tensor is copied only when an operator is about to write into it.
"""

from __future__ import annotations

import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = ["TensorGuard", "call_model", "set_evaluation", "tensors", "unchanged", "written"]

# Batch norms write the running statistics, their arguments 3 and 4, and declare it in no schema.
_UNDECLARED = {"native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"}
# Of no interest among the attributes of a model.
_ATOMS = {bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size}
_CLOSED = (
    *(type, types.ModuleType, types.FunctionType, types.MethodType),
    *(torch.jit.ScriptModule, Tensor),
)


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def call_model(model: nn.Module, example_input: Any) -> Any:
    """Call the model.

    A tuple is its positional arguments, a mapping its keyword arguments, anything else its one
    argument.
    """
    if isinstance(example_input, tuple):
        return model(*example_input)
    if isinstance(example_input, Mapping):
        return model(**example_input)
    return model(example_input)


def written(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Any, Tensor]]:
    """Yield the tensors that an operator writes into, each with its argument in the schema."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from ((argument, tensor) for tensor in tensors(value))


def _storage(tensor: Tensor) -> int | None:
    """The identity of a tensor's storage; None for a tensor without one, as a sparse one."""
    with suppress(NotImplementedError, RuntimeError):
        return int(tensor.untyped_storage()._cdata)
    return None


@final
class TensorGuard:
    """Copies a storage before the first operator writes into it, and can put it back.

    Storages that operators made since are let alone: only what was there before is kept.
    """

    def __init__(self) -> None:
        self._made: set[int] = set()
        self._kept: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator; a dispatch mode passes every operator through here."""
        targets = [tensor for _, tensor in written(func, args, kwargs)]
        if func.overloadpacket.__name__ in _UNDECLARED:
            targets += tensors(args[3:5])
        for tensor in targets:
            self._keep(tensor)
        out = func(*args, **kwargs)
        given = {_storage(tensor) for tensor in tensors((args, kwargs))}
        made = {_storage(tensor) for tensor in tensors(out)} - given
        self._made |= {storage for storage in made if storage is not None}
        return out

    def _keep(self, tensor: Tensor) -> None:
        key = _storage(tensor)
        if key is None or tensor.is_meta or key in self._made or key in self._kept:
            return
        storage = tensor.untyped_storage()
        self._kept[key] = storage, storage.clone()  # type: ignore[no-untyped-call]

    def restore(self) -> None:
        """Put back what was kept."""
        for storage, before in self._kept.values():
            if storage.nbytes() != before.nbytes():
                storage.resize_(before.nbytes())
            storage.copy_(before)


def _note_container(container: Any) -> Callable[[], None]:
    """Note what a dict, list, deque or set holds, and return what puts it back."""

    def held() -> list[int]:
        values = container.values() if isinstance(container, dict) else ()
        return [*map(id, container), *map(id, values)]

    before, ids = list(container.items() if isinstance(container, dict) else container), held()

    def restore() -> None:
        if held() != ids:
            container.clear()
            (container.extend if hasattr(container, "extend") else container.update)(before)

    return restore


def _note_tensor(tensor: Tensor) -> Callable[[], None]:
    """Note a tensor's storage, gradient and flag; its values are `TensorGuard`'s."""
    data, leaf, wanted = tensor.detach(), tensor.is_leaf, tensor.requires_grad
    gradient = tensor.grad if leaf else None

    def place(tensor: Tensor) -> tuple[Any, ...]:
        return _storage(tensor), tensor.shape, tensor.stride(), tensor.storage_offset()

    def restore() -> None:
        strided = data.layout is torch.strided and tensor.layout is torch.strided
        if strided and place(tensor) != place(data):
            tensor.data = data
        if leaf and tensor.is_leaf:
            if tensor.grad is not gradient:
                tensor.grad = gradient
            if tensor.requires_grad != wanted:
                tensor.requires_grad_(wanted)

    return restore


_CONTAINERS = (dict, list, tuple, deque, set, frozenset)
_NOTES: dict[Any, Callable[[Any], Callable[[], None]]] = {
    # a lazy module changes its class when it runs
    nn.Module: lambda module: partial(object.__setattr__, module, "__class__", type(module)),
    Tensor: _note_tensor,
    (dict, list, deque, set): _note_container,
    torch.Generator: lambda generator: partial(generator.set_state, generator.get_state()),
    random.Random: lambda generator: partial(generator.setstate, generator.getstate()),
}


def _note_all(roots: list[Any]) -> list[Callable[[], None]]:
    """Note all that the roots hold, and return what puts it back.

    Of other objects than modules and containers only those that a module holds: what these hold in
    turn may be anything, a trainer and its data sets.
    """
    empty: list[dict[Any, Any]] = []  # most of all dicts: a module has ten without any hook

    def restore_empty() -> None:
        for each in empty:
            if each:
                each.clear()

    notes: list[Callable[[], None]] = [restore_empty]
    seen: dict[int, Any] = {}
    todo: list[tuple[Any, bool]] = [(root, False) for root in roots]
    while todo:
        thing, of_module = todo.pop()
        kind = type(thing)
        if thing is None or kind in _ATOMS or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if issubclass(kind, dict) and not thing:
            empty.append(thing)
            continue
        notes += [note(thing) for base, note in _NOTES.items() if issubclass(kind, base)]
        module, container = issubclass(kind, nn.Module), issubclass(kind, _CONTAINERS)
        held: Iterable[Any] = ()
        if container:
            held = thing.values() if issubclass(kind, dict) else thing
        elif (module or of_module) and not issubclass(kind, _CLOSED):
            held = [own] if (own := getattr(thing, "__dict__", None)) is not None else ()
        inside = module or (of_module and container)
        todo += [(each, inside) for each in held]
    return notes


@contextmanager
def unchanged(*models: nn.Module, example_input: Any = None) -> Iterator[TensorGuard]:
    """Put back, at the end of the block, whatever running the models changed.

    Training flags, attributes and containers of all modules, hooks, parameters, buffers, gradients,
    the example input, and the states of the random generators: torch's on every device in use,
    Python's, and NumPy's where it is loaded. Values of tensors are put back where operators pass
    through the guard that is given; of models that run as copies they cannot change.
    """
    every = [t for model in models for t in (*model.parameters(), *model.buffers())]
    devices = {tensor.device for tensor in (*every, *tensors(example_input))}
    guard = TensorGuard()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for kind in {device.type for device in devices} - {"cpu", "meta"}:
            of_kind = [device for device in devices if device.type == kind]
            stack.enter_context(torch.random.fork_rng(devices=of_kind, device_type=kind))
        stack.callback(random.setstate, random.getstate())
        if (numpy := sys.modules.get("numpy")) is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        stack.callback(guard.restore)
        for note in _note_all([*models, example_input]):
            stack.callback(note)
        yield guard


def set_evaluation(model: nn.Module) -> None:
    """Set every module's flag to evaluation, without `eval()`, which a module may have overridden.

    LoRA layers merge their weights there. For use within `unchanged`, which puts the flags back.
    """
    for module in model.modules():
        vars(module)["training"] = False
