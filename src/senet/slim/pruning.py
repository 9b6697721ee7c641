"""Channel pruning by Torch-Pruning, which sees an SE block as the layers that it is made of."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from senet import ops
from senet.analysis.gate_flow import evaluating
from senet.errors import ConfigError, InputError, InsertionError, first_line, optional
from senet.insertion import se_modules
from senet.insertion.facts import drop_fact
from senet.insertion.graft import MARK, grafts_of
from senet.insertion.guard import settle
from senet.insertion.reading import tensors
from senet.insertion.trace import record_flow
from senet.slim.rewriting import copied

__all__ = ["prune"]


def prune(
    model: nn.Module,
    example_input: Tensor,
    *,
    ratio: float = 0.5,
    keep: str | Sequence[str] = (),
    round_to: int | None = 8,
) -> nn.Module:
    """Return a network with fewer channels; the given one stays.

    The channels with the smallest weights go, in all layers that share them at once: convolutions,
    batch norms, both layers of the SE blocks, and residual branches that are added. Torch-Pruning's
    dependency graph says which belong together. The result computes what the given network does
    with these channels at 0; train it further.

    Args:
        model: any network that Torch-Pruning can trace, with SE blocks of this project, timm or
            torchvision.
        example_input: images [N, C, *spatial] on the model's device.
        ratio: the share of the channels of each layer that goes, in (0, 1).
        keep: globs over paths of convolutions and linear layers whose outputs stay whole; those
            that make the network's outputs always do.
        round_to: widths are multiples of it; None for any.

    Returns:
        The network. It is trained, deployed and exported as before, and saved by
        `torch.save(net, file)`: no base network has its widths, so `senet.save_pretrained` refuses
        it.

    Raises:
        ConfigError: a ratio that cannot be, or a gate that is constant; `senet.fold` it first.
        InputError: the model cannot be pruned.
        MissingPackageError: Torch-Pruning is not installed.

    Source: G. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
    """
    if not 0 < ratio < 1:
        raise ConfigError(f"ratio must lie between 0 and 1, got {ratio}; 0.5 halves the widths")
    constant = [path for path, block in se_modules(model).items() if block.squeeze == "constant"]
    if constant:
        raise ConfigError(
            f"the gates must depend on the image, but that of {constant[0]} is constant: nothing "
            "ties it to the channels; fold it first, by senet.fold"
        )
    with optional("channel pruning"):
        import torch_pruning
    settle(model)
    net = copied(model)
    outputs = _makers_of_outputs(net, example_input)
    kept = outputs | _kept(net, [keep] if isinstance(keep, str) else keep)
    whole = [module for path, module in net.named_modules() if path in kept]
    frozen = [p for p in net.parameters() if not p.requires_grad]
    net.requires_grad_(requires_grad=True)  # the graph is read from autograd's
    training = {module: module.training for module in net.modules()}
    options = {"pruning_ratio": ratio, "ignored_layers": whole, "round_to": round_to}
    try:
        with ops.use_backend("reference"):
            importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
            pruner: Any = torch_pruning.pruner.BasePruner
            pruner(net.eval(), example_input, importance=importance, **options).step()
    except Exception as error:
        raise InputError(
            f"the model must be one that Torch-Pruning can trace, but {type(model).__name__} gave "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    for module, mode in training.items():
        module.training = mode
    for parameter in frozen:
        parameter.requires_grad = False
    _note_widths(net)
    _check(model, net, example_input)
    return net


def _kept(net: nn.Module, globs: Sequence[str]) -> set[str]:
    """Return the paths of modules that globs take; each must take some."""
    paths = [path for path, _ in net.named_modules()]
    kept: set[str] = set()
    for glob in globs:
        taken = fnmatch.filter(paths, glob)
        if not taken:
            raise InputError(f"keep must take some of the model's modules, got {glob!r}")
        kept.update(taken)
    return kept


def _makers_of_outputs(net: nn.Module, example: Tensor) -> set[str]:
    """Return the paths of the modules that made the network's outputs.

    Raises:
        InputError: the network pads channels.
    """
    flow = record_flow(net, example)
    for value in flow.values:
        if value.op == "constant_pad_nd" and value.shape[1] != value.parents[0].shape[1]:
            raise InputError(
                f"the model must not pad channels, but {value.scope or 'it'} does (a shortcut "
                "without parameters): Torch-Pruning does not know which channels meet there"
            )
    makers = set()
    for value in flow.outputs:
        while value.op in ("_to_copy", "alias", "clone", "flatten", "view") and value.parents:
            (value,) = value.parents[:1]
        makers.add(value.scope)
    return makers


def _note_widths(net: nn.Module) -> None:
    """Let the sites have the widths of now, and forget which network of which name this was."""
    for module in net.modules():
        marks = []
        for graft in grafts_of(module):
            block: Any = module._modules[graft.child]
            channels, hidden = getattr(block, "channels", 0), getattr(block, "hidden", 0)
            parameters = sum(p.numel() for p in block.parameters())
            site = replace(
                graft.site,
                channels=channels or graft.site.channels,
                hidden=hidden,
                parameters=parameters,
                macs=2 * channels * hidden,
            )
            marks.append(replace(graft, site=site))
        if marks:
            vars(module)[MARK] = tuple(marks)
    settle(net)
    drop_fact(net, "network")


@torch.no_grad()
def _check(model: nn.Module, net: nn.Module, example: Tensor) -> None:
    """Raise `InsertionError` unless the network runs, with outputs of the shapes before."""
    try:
        with evaluating(model), evaluating(net):
            before, after = tensors(model(example)), tensors(net(example))
    except Exception as error:
        raise InsertionError(
            f"the pruned network must run, but layers do not fit: {first_line(error)}; keep the "
            "layers around that place by keep="
        ) from error
    shapes = [[list(each.shape) for each in outputs] for outputs in (before, after)]
    if shapes[0] != shapes[1]:
        raise InsertionError(
            f"the pruned network must give outputs of shapes {shapes[0]}, gives {shapes[1]}; keep "
            "the layers that make them by keep="
        )
    if not all(math.isfinite(float(each.double().sum())) for each in after):
        raise InsertionError("the outputs of the pruned network must be finite, but are not")
