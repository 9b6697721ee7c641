"""The data flow of one forward pass: which tensor came from which, by what operator, and where.

The model runs once, in evaluation mode, without gradients, under a dispatch mode that sees every
operator. Nothing is read from class names or source code, so functional code, in-place operators,
scripted activations and unusual control flow are all seen as what they compute.
"""

from __future__ import annotations

import functools
import operator
import weakref
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from senet import ops
from senet.errors import InputError, InsertionError, first_line
from senet.insertion.operators import CONVOLUTIONS, DENSE, NORMS, RESHAPES
from senet.insertion.reading import TensorGuard, call_model, set_evaluation, tensors, unchanged

__all__ = ["Call", "Flow", "FlowRecorder", "Value", "record_flow"]

# Operators of which only the first output is part of the data flow: a norm's statistics, the
# indices of a pooling and the mask of a dropout lead nowhere.
_FIRST_ONLY = NORMS | {
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "native_dropout",
    "native_group_norm",
    "native_layer_norm",
}


@final
@dataclass(slots=True, eq=False, repr=False)
class Value:
    """One version of one tensor. An operator that works in place makes a new version."""

    index: int
    op: str  # name of the operator that made it, "input" for an input of the model
    parents: tuple[Value, ...]  # the values it was made from; parameters and constants are none
    shape: tuple[int, ...]
    scope: str  # path of the module whose forward called the operator
    ancestors: int  # bit i set: value i is this value or one that it was made from
    layout: int | None  # which dimension holds the channels, where known
    weight_shape: tuple[int, ...] = ()  # of a convolution
    stride: tuple[int, ...] = ()  # of a convolution
    groups: int = 1  # of a convolution
    axis: int | None = None  # of a concatenation or a stack
    consumers: list[Value] = field(default_factory=list)

    def comes_from(self, source: Value) -> bool:
        """Whether this is `source` or was made from it."""
        return bool(self.ancestors >> source.index & 1)

    @property
    def is_map(self) -> bool:
        """Whether this is a feature map [N, C, *spatial] with at least one spatial dimension."""
        return self.layout == 1 and len(self.shape) >= 3

    @property
    def is_single(self) -> bool:
        """Whether this is a map that was pooled to one position, or has only one."""
        return self.is_map and all(n == 1 for n in self.shape[2:])


@final
@dataclass(slots=True)
class Call:
    """One call of one module."""

    path: str
    input: Value | None  # its first positional argument
    start: int  # index of the first value made during the call
    end: int = 0  # one past the last
    output: Value | None = None  # what it returned, if that was one tensor

    def makes(self, value: Value) -> bool:
        """Whether a value was made during the call."""
        return self.start <= value.index < self.end


def _look_up() -> defaultdict[Any, list[Call]]:
    return defaultdict(list)


@final
@dataclass
class Flow:
    """The values and module calls of one forward pass, in order (calls in order of their ends).

    `outputs_of`, `readers_of` and `calls_of` look calls up, innermost first: by the value that they
    returned, by the value that was their first argument, and by their module.
    """

    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs_of: defaultdict[Value | None, list[Call]] = field(default_factory=_look_up)
    readers_of: defaultdict[Value | None, list[Call]] = field(default_factory=_look_up)
    calls_of: defaultdict[str, list[Call]] = field(default_factory=_look_up)
    outputs: set[Value] = field(default_factory=set)  # what the model returned

    def add_call(self, call: Call) -> None:
        """Add a call that has ended."""
        self.calls.append(call)
        self.outputs_of[call.output].append(call)
        self.readers_of[call.input].append(call)
        self.calls_of[call.path].append(call)

    def fork_of(self, operands: Iterable[Value]) -> Value | None:
        """The latest value that all operands come from."""
        common = functools.reduce(operator.and_, (operand.ancestors for operand in operands))
        return self.values[common.bit_length() - 1] if common else None

    def sources(self, value: Value) -> list[Value]:
        """All values that a value was made from, in order."""
        return [v for v in self.values[: value.index] if value.comes_from(v)]

    def between(self, fork: Value, end: Value) -> list[Value]:
        """The values on the paths from the fork (excluded) to `end` (included)."""
        values = self.values[fork.index + 1 : end.index + 1]
        return [v for v in values if v.comes_from(fork) and end.comes_from(v)]

    def depth(self, fork: Value, end: Value) -> int:
        """How many convolutions and linear layers the longest path from the fork to `end` has."""
        depths = {fork: 0}
        for value in self.between(fork, end):
            inside = [depths[p] for p in value.parents if p in depths]
            depths[value] = max(inside, default=0) + (value.op in DENSE)
        return depths.get(end, 0)


class FlowRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator while it is active, and notes what came from the inputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Flow()
        self.stack: list[Call] = []
        self._known: dict[int, tuple[weakref.ref[Tensor], Value]] = {}

    def compute(self, func: Any, args: Any, kwargs: Any, parents: tuple[Value, ...]) -> Any:
        """Call an operator. If it has parents, its output is the next value of the flow."""
        return func(*args, **kwargs)

    def add_inputs(self, example_input: Any) -> None:
        """Note the tensors from which everything else is made."""
        for leaf in tensors(example_input):
            self.add(leaf, "input", (), 1 if leaf.dim() >= 3 else None)

    def find(self, tensor: Any) -> Value | None:
        """Return the value that a tensor is; None where it is none."""
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def find_all(self, tree: Any) -> tuple[Value, ...]:
        """Return the values that tensors in nested containers are, each once."""
        values = (self.find(tensor) for tensor in tensors(tree))
        return tuple(dict.fromkeys(value for value in values if value is not None))

    def add(self, tensor: Tensor, op: str, parents: tuple[Value, ...], layout: int | None) -> Value:
        """Note a tensor as a new value."""
        index, scope = len(self.flow.values), self.stack[-1].path if self.stack else ""
        shape = tuple(int(n) for n in tensor.shape)
        value = Value(index, op, parents, shape, scope, 1 << index, layout)
        for parent in parents:
            value.ancestors |= parent.ancestors
            parent.consumers.append(value)
        self.flow.values.append(value)
        self._known[id(tensor)] = (weakref.ref(tensor), value)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        parents = self.find_all((args, kwargs))
        out = self.compute(func, args, kwargs, parents)
        if parents:
            op = func.overloadpacket.__name__
            outputs = tensors(out)
            for tensor in outputs[:1] if op in _FIRST_ONLY else outputs:
                self._record(tensor, op, parents, args)
        return out

    def _record(self, tensor: Tensor, op: str, parents: tuple[Value, ...], args: Any) -> None:
        first = parents[0]
        if op in ("sum", "mean") and first.op == "stack" and len(args) > 1:
            axes = [axis % len(first.shape) for axis in args[1] or ()]
            if axes == [first.axis] and tensor.dim() == len(first.shape) - 1:
                op, parents = "add", first.parents  # a sum of tensors, written with a stack
        value = self.add(tensor, op, parents, self._layout(op, parents, args, tensor))
        if op in CONVOLUTIONS and isinstance(args[1], Tensor):
            value.weight_shape, value.stride = tuple(args[1].shape), tuple(args[3])
            if op == "convolution":
                value.groups = int(args[8])
        elif op in ("cat", "stack"):
            value.axis = (args[1] if len(args) > 1 else 0) % max(1, len(value.shape))

    def _layout(self, op: str, parents: tuple[Value, ...], args: Any, out: Tensor) -> int | None:
        """The channel dimension of an operator's output, if it can be told."""
        if op in CONVOLUTIONS:
            return 1 if out.dim() >= 3 else None
        known = [parent for parent in parents if parent.layout is not None]
        if not known:
            return None
        first = known[0]
        if op in ("permute", "transpose", "movedim"):
            return _moved(op, first, args)
        if op in RESHAPES:
            # [N, C, H, W] -> [N, C, HW] keeps its channels; a channel shuffle loses and regains
            # them, see anchors
            keeps = first.layout == 1 and out.dim() >= 2 and tuple(out.shape[:2]) == first.shape[:2]
            return 1 if keeps else None
        return next((v.layout for v in known if len(v.shape) == out.dim()), None)


def _moved(op: str, value: Value, args: Any) -> int | None:
    """Where the channels are behind a permutation."""
    rank, layout = len(value.shape), value.layout
    if layout is None or op == "movedim":
        return None
    if op == "permute":
        order: list[int] = [d % rank for d in args[1]]
        return order.index(layout)
    a, b = int(args[1]) % rank, int(args[2]) % rank
    return {a: b, b: a}.get(layout, layout)


@final
class _Guarded(FlowRecorder):  # type: ignore[no-untyped-call]
    def __init__(self, guard: TensorGuard) -> None:
        super().__init__()
        self.guard = guard

    def compute(self, func: Any, args: Any, kwargs: Any, parents: tuple[Value, ...]) -> Any:
        return self.guard.call(func, args, kwargs)


def _run(model: nn.Module, example_input: Any, recorder: FlowRecorder) -> None:
    """Run the model in evaluation mode, its operators and module calls recorded."""

    def plain(leaf: Any) -> Any:
        # in inference mode a dispatch mode sees other operators, and its tensors are of use there
        return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf

    paths = {id(module): path for path, module in model.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        path = paths.get(id(module))
        if path is not None:
            read = recorder.find(args[0]) if args else None
            recorder.stack.append(Call(path, read, start=len(recorder.flow.values)))

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        if id(module) in paths:
            call = recorder.stack.pop()
            call.output = recorder.find(output) if isinstance(output, Tensor) else None
            call.end = len(recorder.flow.values)
            recorder.flow.add_call(call)

    hooks = [
        nn_module.register_module_forward_pre_hook(enter),
        nn_module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        set_evaluation(model)
        # a block that is there already is computed as it is written, whatever is faster
        with ops.use_backend("reference"), torch.inference_mode(mode=False), torch.no_grad():
            example = tree_map(plain, example_input)
            with recorder:
                recorder.add_inputs(example)
                returned = call_model(model, example)
        recorder.flow.outputs = {*recorder.find_all(returned)}
    finally:
        for hook in hooks:
            hook.remove()


def record_flow(model: nn.Module, example_input: Any) -> Flow:
    """Run the model once and return its data flow. Nothing is changed, see `unchanged`.

    Raises:
        InputError: the model does not run on the example input.
        InsertionError: a module says that it has lost its block.
    """
    try:
        with unchanged(model, example_input=example_input) as guard:
            recorder = _Guarded(guard)
            _run(model, example_input, recorder)
    except InsertionError:
        raise
    except Exception as error:
        shapes = ", ".join(str(list(leaf.shape)) for leaf in tensors(example_input))
        raise InputError(
            "the model must run on the example input, but on "
            f"{shapes or repr(type(example_input).__name__)} it failed: {first_line(error)}; "
            "give an input as in training (a tensor, a tuple of arguments, or a dict of keyword "
            "arguments) on the model's device"
        ) from error
    return recorder.flow
