"""Exact counts of one run: multiply-adds, bytes moved, bytes kept; each by module.

Every operator that PyTorch calls passes a dispatch mode. The formulas of the multiply-adds are
torch's own (`torch.utils.flop_counter`); those of the bytes stand here. An operator counts where
the innermost module runs; an operator of the backward counts where its forward ran; a tensor that
is kept counts where it was made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from senet import ops
from senet.cost.running import backward, differentiable, forward, tensors
from senet.insertion.reading import call_model

__all__ = ["Trace", "bytes_moved", "count_forward", "count_parameters", "count_step"]

# Operators that only allocate or only change how a tensor is looked at, and say so in no schema.
_FREE = {
    "as_strided_", "detach_", "empty", "empty_like", "empty_permuted", "empty_strided",
    "is_same_size", "new_empty", "new_empty_strided", "resize_", "set_", "squeeze_", "swapaxes_",
    "swapdims_", "t_", "transpose_", "_unsafe_view", "unsqueeze_",
}  # fmt: skip
# In training, batch norm needs the statistics of its input before it can use it, and in the
# backward the sums over the gradient and the input: it reads these arguments twice.
_READ_TWICE = {  # operator: these arguments, where that argument is true
    "native_batch_norm": ((0,), 5),
    "_native_batch_norm_legit": ((0,), 5),
    "native_batch_norm_backward": ((0, 1), 7),
}
# In-place operators that do not read what they overwrite.
_OVERWRITING = {"copy_", "fill_", "zero_"}


@final
@dataclass
class Trace:
    """What one run did, by the path of the module that caused it ("" is the model itself).

    Attributes:
        macs: multiply-adds.
        moved: bytes that the operators read and write.
        kept: bytes kept for the backward.
        without_formula: calls of each operator without a multiply-add formula: it counts as none.
    """

    macs: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    without_formula: Counter[str] = field(default_factory=Counter)


def count_parameters(model: nn.Module) -> Counter[str]:
    """Return the number of parameters by the module that holds them; a shared one counts once."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[name.rpartition(".")[0]] += parameter.numel()
    return counts


def _distinct_bytes(tensor: Tensor) -> int:
    """Bytes of the elements that lie at different places: an expanded dimension is one element."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count * tensor.element_size()


def bytes_moved(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Return the bytes that one call of an operator moves.

    Each tensor argument is read once and each output written once; an in-place operator reads and
    writes; views, allocations and changes of metadata move nothing; batch norm in training reads
    its input twice, since it cannot do with less. It is the least that this operator can do when it
    runs by itself: caches, and needless passes, are not seen.
    """
    name = func.overloadpacket.__name__
    if func.is_view or name in _FREE:
        return 0
    read = {id(tensor): tensor for tensor in tensors((args, kwargs))}
    written = {id(tensor): tensor for tensor in tensors(out)}
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        for tensor in tensors(value):
            written[id(tensor)] = tensor
            if argument.is_out or name in _OVERWRITING:
                read.pop(id(tensor), None)
    again, training = _READ_TWICE.get(name, ((), 0))
    twice = [args[index] for index in again if args[training]]
    return sum(_distinct_bytes(t) for t in (*read.values(), *twice, *written.values()))


@final
class _Places:
    """Which module runs now, in the forward and in the backward.

    Autograd numbers its nodes in the order in which the forward makes them. So the numbers at
    which modules are entered and left tell for each node of the backward where it was made.
    """

    def __init__(self, model: nn.Module) -> None:
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.stack = [""]
        self.starts: list[int] = []
        self.owners: list[str] = []
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks; its operators count where it is called
            module.register_forward_pre_hook(self._enter, prepend=True)
            module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, module: nn.Module, args: Any) -> None:
        self.stack.append(self.paths[id(module)])
        self._note()

    _enter.only_looks = True  # type: ignore[attr-defined] # SE stays one op with its batch norm

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()
        self._note()

    _leave.only_looks = True  # type: ignore[attr-defined]

    def _note(self) -> None:
        self.starts.append(_get_sequence_nr())
        self.owners.append(self.stack[-1])

    def here(self) -> str | None:
        """The path of the module that runs; None while a finished gradient is stored."""
        node = torch._C._current_autograd_node()
        if node is None or len(self.stack) > 1:  # in a backward too, where a forward is run again
            return self.stack[-1]
        if node.name().endswith("AccumulateGrad"):
            return None
        index = bisect_right(self.starts, node._sequence_nr()) - 1
        return self.owners[index] if index >= 0 else ""


@final
class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operator that runs under it."""

    def __init__(self, places: _Places, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places = places
        self.trace = trace
        self.makers: dict[int, str] = {}  # address of a storage: who wrote it last

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        path = self.places.here()
        if path is not None:
            if not func.is_view:
                for tensor in tensors(out):
                    self.makers[tensor.untyped_storage()._cdata] = path
            moved = bytes_moved(func, args, kwargs, out)
            self.trace.moved[path] += moved
            formula = flop_registry.get(func.overloadpacket)
            if formula is not None:
                self.trace.macs[path] += formula(*args, **kwargs, out_val=out) // 2
            elif moved:
                self.trace.without_formula[func.overloadpacket._qualified_op_name] += 1
        return out

    def on_stage(self, name: str, given: tuple[Any, ...], found: Any) -> None:
        """Count one stage of batch norm with SE in closed form: one pass over what it is given."""
        path = self.places.here()
        if path is not None:
            for tensor in tensors(found):
                self.makers[tensor.untyped_storage()._cdata] = path
            self.trace.moved[path] += sum(map(_distinct_bytes, tensors((given, found))))
            self.trace.without_formula[f"senet::{name}"] += 1


def count_forward(model: nn.Module, example_input: Any) -> Trace:
    """Count one forward in evaluation mode, without gradients. The model is a copy: hooks stay."""
    trace = Trace()
    meter = _Meter(_Places(model.eval()), trace)
    with meter, ops.observed(meter.on_stage):
        forward(model, example_input)
    return trace


def count_step(model: nn.Module, example_input: Any) -> Trace:
    """Count one forward in training mode and its backward. The model is a copy: hooks stay.

    The gradients of the outputs, with which the backward starts, are there already: making them,
    and storing the finished gradients of the parameters, moves no bytes here.
    """
    trace = Trace()
    places = _Places(model.train())
    meter = _Meter(places, trace)
    held = (*model.parameters(), *model.buffers(), *tensors(example_input))
    known = {tensor.untyped_storage()._cdata: tensor for tensor in held}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known[storage._cdata] = tensor  # alive, so that no other gets its address
            trace.kept[meter.makers.get(storage._cdata, places.stack[-1])] += storage.nbytes()
        return tensor

    with torch.enable_grad(), ops.observed(meter.on_stage):
        with meter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = differentiable(call_model(model, example_input))
        gradients = [torch.ones_like(output) for output in outputs]
        with meter:
            backward(outputs, gradients)
    return trace
