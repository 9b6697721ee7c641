"""Exact counts of one run: multiply-adds, bytes moved, bytes kept; each by module.

Every operator that PyTorch calls passes a dispatch mode. The formulas of the multiply-adds are
torch's own (`torch.utils.flop_counter`), those of the bytes are in `byte_counts`. An operator
counts where the innermost module runs; an operator of the backward counts where its forward ran; a
tensor that is kept counts where it was made.
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
from senet.cost.byte_counts import bytes_moved, distinct_bytes
from senet.cost.model_copies import differentiable, forward
from senet.insertion.reading import call_model, tensors

__all__ = ["RunCounts", "count_forward", "count_parameters", "count_step"]


@final
@dataclass
class RunCounts:
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
    parameters: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameters[name.rpartition(".")[0]] += parameter.numel()
    return parameters


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

    def __init__(self, places: _Places, counts: RunCounts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places = places
        self.counts = counts
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
            self.counts.moved[path] += moved
            formula = flop_registry.get(func.overloadpacket)
            if formula is not None:
                self.counts.macs[path] += formula(*args, **kwargs, out_val=out) // 2
            elif moved:
                self.counts.without_formula[func.overloadpacket._qualified_op_name] += 1
        return out

    def on_stage(self, name: str, given: tuple[Any, ...], outputs: Any) -> None:
        """Count one stage of batch norm with SE in closed form: one pass over what it is given."""
        path = self.places.here()
        if path is not None:
            for tensor in tensors(outputs):
                self.makers[tensor.untyped_storage()._cdata] = path
            self.counts.moved[path] += sum(map(distinct_bytes, tensors((given, outputs))))
            self.counts.without_formula[f"senet::{name}"] += 1


def count_forward(model: nn.Module, example_input: Any) -> RunCounts:
    """Count one forward in evaluation mode, without gradients. The model is a copy: hooks stay."""
    counts = RunCounts()
    meter = _Meter(_Places(model.eval()), counts)
    with meter, ops.observed(meter.on_stage):
        forward(model, example_input)
    return counts


def count_step(model: nn.Module, example_input: Any) -> RunCounts:
    """Count one forward in training mode and its backward. The model is a copy: hooks stay.

    The gradients of the outputs, with which the backward starts, are there already: making them,
    and storing the finished gradients of the parameters, moves no bytes here.
    """
    counts = RunCounts()
    places = _Places(model.train())
    meter = _Meter(places, counts)
    held = (*model.parameters(), *model.buffers(), *tensors(example_input))
    known = {tensor.untyped_storage()._cdata: tensor for tensor in held}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known[storage._cdata] = tensor  # alive, so that no other gets its address
            counts.kept[meter.makers.get(storage._cdata, places.stack[-1])] += storage.nbytes()
        return tensor

    with torch.enable_grad(), ops.observed(meter.on_stage):
        with meter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = differentiable(call_model(model, example_input))
        gradients = [torch.ones_like(output) for output in outputs]
        with meter:
            torch.autograd.backward(outputs, gradients)
    return counts
