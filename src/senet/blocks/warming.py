"""Compiling ahead of the first step, for maps of every size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from senet import ops
from senet.blocks.squeeze_excitation import SqueezeExcitation
from senet.errors import InputError

__all__ = ["compile_all_sizes", "warm_up"]


def warm_up(model: nn.Module, example_input: Any) -> ops.Backend:
    """Compile now what a network with SE needs, and use it for maps of every size from then on.

    Otherwise the first step waits for a compiler, and small maps (`senet.backend()` says which) are
    left to the modules, since a short training would not win back the time. Worth it for a training
    of minutes on images of 8 to 96 pixels or in batches of few. On a CPU that is one C++ operator
    for small maps of all sizes, and Inductor's code for large ones. Compiled code stays in
    Inductor's cache on disk, so later processes wait for a fraction of that time.

    The network runs once as in training (if that is its mode), forward and backward, and once as in
    evaluation. Its parameters, gradients, statistics and modes and the state of torch's random
    generators are afterwards what they were. Only the size of the batch and the images may differ
    later on. So call it inside `torch.autocast` where the training uses that, and before wrapping
    the network in `DistributedDataParallel`. Without effect on what `set_backend` chose.

    Args:
        model: a network with SE blocks, on its device.
        example_input: a batch of two or more images, or a tuple of arguments. (Sizes of 1 are
            compiled separately.)

    Returns:
        what runs now, how many stages have been compiled in this process and in how many seconds.

    Raises:
        InputError: the network has no SE blocks.

    Example:
        >>> from senet import create_model, use_backend
        >>> with use_backend("reference"):  # nothing to compile
        ...     warm_up(create_model("se_resnet20"), torch.zeros(2, 3, 8, 8)).name
        'reference'
    """
    blocks = compile_all_sizes(model)
    if not blocks:
        raise InputError("warm_up compiles SE blocks, and this network has none; insert them first")
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    training = [module for module in model.modules() if module.training]
    devices = {t.device for t in (*model.parameters(), *model.buffers()) if t.is_cuda}
    with torch.random.fork_rng(devices):
        try:
            if model.training:
                _training_step(model, arguments)
            for module in training:  # not eval(), which of some modules does more
                module.training = False
            with torch.no_grad():
                model(*arguments)
        finally:
            for module in training:
                module.training = True
            for buffer, before in buffers:
                buffer.data.copy_(before)
    return ops.backend(blocks[0].fc1.weight.device, warm=True)


def compile_all_sizes(model: nn.Module) -> list[SqueezeExcitation]:
    """Let the SE blocks of a network, and of its copies from now on, be compiled; return them."""
    blocks = [module for module in model.modules() if isinstance(module, SqueezeExcitation)]
    for block in blocks:
        block.warm = True
    return blocks


def _training_step(model: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Forward and backward, without a trace in the gradients of parameters."""
    with torch.enable_grad():
        outputs = pytree.tree_leaves(model(*arguments))
        wanted = [t for t in outputs if isinstance(t, Tensor) and t.requires_grad]
        inputs = [p for p in model.parameters() if p.requires_grad]
        if wanted and inputs:
            grads = [torch.zeros_like(t) for t in wanted]
            torch.autograd.grad(wanted, inputs, grads, allow_unused=True)
