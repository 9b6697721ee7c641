"""The data flow of one forward pass: which tensor came from which, by what operator, and where.

The model runs once, in evaluation mode, without gradients, under a dispatch mode that sees every
operator. Nothing is read from class names or source code, so functional code, in-place operators,
scripted activations and unusual control flow are all seen as what they compute. The model is left
as it was: training flags are restored, no hook stays.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from senet import ops
from senet.errors import InputError

__all__ = ["Call", "Flow", "Value", "record_flow"]


@final
@dataclass(slots=True)
class Value:
    """One version of one tensor. An operator that works in place makes a new version."""

    index: int
    op: str  # name of the operator that made it, "input" for an input of the model
    parents: tuple[int, ...]  # the values it was made from; parameters and constants are none
    shape: tuple[int, ...]
    scope: str  # path of the module whose forward called the operator
    dtype: torch.dtype
    device: torch.device
    ancestors: int  # bit i set: value i is this value or one that it was made from
    layout: int | None  # which dimension holds the channels, where known
    weight_shape: tuple[int, ...] = ()  # of a convolution
    stride: tuple[int, ...] = ()  # of a convolution
    groups: int = 1  # of a convolution
    axis: int | None = None  # of a concatenation
    consumers: list[int] = field(default_factory=list)


@final
@dataclass(slots=True)
class Call:
    """One call of one module."""

    path: str
    input: int | None  # the value of its first positional argument
    output: int | None = None  # the value it returned, if it returned one tensor
    start: int = 0  # the first value made during the call
    end: int = 0  # one past the last


@final
@dataclass
class Flow:
    """The values and module calls of one forward pass, in order (calls in order of their ends)."""

    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def outputs_of(self, value: int) -> list[Call]:
        """Return the calls that returned this value, innermost first."""
        return self._returned.get(value, [])

    def readers_of(self, value: int) -> list[Call]:
        """Return the calls whose first argument was this value, innermost first."""
        return self._read.get(value, [])

    def calls_of(self, path: str) -> list[Call]:
        """Return the calls of a module."""
        return self._by_path.get(path, [])

    def is_map(self, value: int) -> bool:
        """Whether a value is a feature map [N, C, *spatial] with at least one spatial dimension."""
        v = self.values[value]
        return v.layout == 1 and len(v.shape) >= 3

    def index(self) -> None:
        """Build the look-ups, once all is recorded."""
        self._returned: dict[int, list[Call]] = {}
        self._read: dict[int, list[Call]] = {}
        self._by_path: dict[str, list[Call]] = {}
        for call in self.calls:
            self._by_path.setdefault(call.path, []).append(call)
            if call.output is not None:
                self._returned.setdefault(call.output, []).append(call)
            if call.input is not None:
                self._read.setdefault(call.input, []).append(call)
        for value in self.values:
            for parent in value.parents:
                self.values[parent].consumers.append(value.index)


_CONVOLUTIONS = {"convolution", "_convolution", "mkldnn_convolution", "convolution_overrideable"}
_RESHAPES = {
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "unsqueeze",
    "squeeze",
    "flatten",
    "unflatten",
    "expand",
}


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Flow()
        self.stack: list[tuple[str, Call]] = []
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def find(self, tensor: Any) -> int | None:
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def add(self, tensor: Tensor, op: str, parents: tuple[int, ...], layout: int | None) -> Value:
        values = self.flow.values
        ancestors = 1 << len(values)
        for parent in parents:
            ancestors |= values[parent].ancestors
        scope = self.stack[-1][0] if self.stack else ""
        shape = tuple(int(n) for n in tensor.shape)
        value = Value(
            len(values), op, parents, shape, scope, tensor.dtype, tensor.device, ancestors, layout
        )
        values.append(value)
        self._known[id(tensor)] = (weakref.ref(tensor), value.index)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = (
            self.find(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        )
        parents = tuple(dict.fromkeys(index for index in found if index is not None))
        out = func(*args, **kwargs)
        if parents:
            name = func.overloadpacket.__name__
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    layout = self._layout(name, parents, args, leaf)
                    self._annotate(self.add(leaf, name, parents, layout), args)
        return out

    def _annotate(self, value: Value, args: Any) -> None:
        if value.op in _CONVOLUTIONS and isinstance(args[1], Tensor):
            value.weight_shape = tuple(args[1].shape)
            value.stride = tuple(args[3])
            if value.op == "convolution":
                value.groups = int(args[8])
        elif value.op == "cat":
            value.axis = (args[1] if len(args) > 1 else 0) % max(1, len(value.shape))

    def _layout(self, op: str, parents: tuple[int, ...], args: Any, out: Tensor) -> int | None:
        """The channel dimension of an operator's output, if it can be told."""
        if op in _CONVOLUTIONS:
            return 1 if out.dim() >= 3 else None
        known = [self.flow.values[p] for p in parents if self.flow.values[p].layout is not None]
        if not known:
            return None
        first = known[0]
        if op in ("permute", "transpose", "movedim"):
            return _moved(op, first, args)
        if op in _RESHAPES:
            # [N, C, H, W] -> [N, C, HW] keeps its channels; a channel shuffle loses and regains
            # them, see `shuffled`
            keeps = first.layout == 1 and out.dim() >= 2 and tuple(out.shape[:2]) == first.shape[:2]
            return 1 if keeps else None
        same_rank = [v for v in known if len(v.shape) == out.dim()]
        return same_rank[0].layout if same_rank else None


def _moved(op: str, value: Value, args: Any) -> int | None:
    rank = len(value.shape)
    order = list(range(rank))
    if op == "permute":
        order = [d % rank for d in args[1]]
    elif op == "transpose":
        a, b = args[1] % rank, args[2] % rank
        order[a], order[b] = order[b], order[a]
    else:
        return None
    return order.index(value.layout) if value.layout is not None else None


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with every module's own flag restored.

    A block that is there already is computed as it is written, whatever is faster.
    """
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with ops.use_backend("reference"):
            yield
    finally:
        for module, flag in flags.items():
            module.training = flag


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


def record_flow(model: nn.Module, example_input: Any) -> Flow:
    """Run the model once and return its data flow.

    Raises:
        InputError: the model does not run on the example input.
    """
    recorder = _Recorder()
    paths = {id(module): path for path, module in model.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        path = paths.get(id(module))
        if path is None:
            return
        first = recorder.find(args[0]) if args else None
        call = Call(path, first, start=len(recorder.flow.values))
        recorder.stack.append((path, call))

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        if id(module) not in paths:
            return
        call = recorder.stack.pop()[1]
        call.output = recorder.find(output) if isinstance(output, Tensor) else None
        call.end = len(recorder.flow.values)
        recorder.flow.calls.append(call)

    hooks = [
        nn_module.register_module_forward_pre_hook(enter),
        nn_module.register_module_forward_hook(leave),
    ]
    inputs = [leaf for leaf in tree_leaves(example_input) if isinstance(leaf, Tensor)]
    try:
        with _evaluation(model), torch.no_grad(), torch.random.fork_rng(devices=[]), recorder:
            for leaf in inputs:
                recorder.add(leaf, "input", (), 1 if leaf.dim() >= 3 else None)
            call_model(model, example_input)
    except Exception as error:
        shapes = ", ".join(str(list(leaf.shape)) for leaf in inputs) or repr(
            type(example_input).__name__
        )
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"the model must run on the example input, but on {shapes} it failed: {reason}; "
            "give an input as in training (a tensor, a tuple of arguments, or a dict of keyword "
            "arguments) on the model's device"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    recorder.flow.index()
    return recorder.flow
