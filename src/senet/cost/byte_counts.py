"""The formula of the bytes that one operator moves; that of multiply-adds is torch's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from senet.insertion.reading import tensors, written

__all__ = ["bytes_moved", "distinct_bytes"]

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


def distinct_bytes(tensor: Tensor) -> int:
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
    outputs = {id(tensor): tensor for tensor in tensors(out)}
    for argument, tensor in written(func, args, kwargs):
        outputs[id(tensor)] = tensor
        if argument.is_out or name in _OVERWRITING:
            read.pop(id(tensor), None)
    again, training = _READ_TWICE.get(name, ((), 0))
    twice = [args[index] for index in again if args[training]]
    return sum(distinct_bytes(t) for t in (*read.values(), *twice, *outputs.values()))
