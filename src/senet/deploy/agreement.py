"""Whether a rewritten network computes what the given one does, module by module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from senet import ops
from senet.errors import InsertionError
from senet.insertion.reading import call_model, set_evaluation, tensors, unchanged

__all__ = ["check_agreement", "comparable"]

# The largest relative difference to the given network that is taken for rounding. A deep network
# multiplies rounding errors; the rewriting itself is exact, as float64 shows.
_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-2}


def comparable(touched: list[tuple[str, ...]], hosts: list[str], joined: list[str]) -> set[str]:
    """The paths of the smallest modules whose outputs must be those of the given network.

    Args:
        touched: paths of modules that changed together, one in front of the other.
        hosts: what a host and its block stand in; the given network has the host in its place.
        joined: modules whose graph calls none of those that it goes through.
    """

    def fits(path: str) -> bool:
        outside = not any(f"{path}.".startswith(f"{host}.") for host in hosts)
        called = not any(path.startswith(f"{each}.") for each in joined)
        whole = all(len({each.startswith(f"{path}.") for each in span}) == 1 for span in touched)
        return outside and called and whole

    smallest = set()
    for span in touched:
        path = span[0].rpartition(".")[0]
        while path and not fits(path):
            path = path.rpartition(".")[0]
        smallest.add(path)
    return smallest


def check_agreement(model: nn.Module, net: nn.Module, example: Any, paths: set[str]) -> None:
    """Raise unless both networks compute the same on the example.

    What is compared is the output of the modules of these paths, in which something was rewritten,
    and of the network. Where that holds numbers of boxes and classes, rounding alone can change
    their order, and the modules are what counts.
    """
    with unchanged(model), ops.use_backend("reference"):
        set_evaluation(model)
        pairs = [_outputs(each, paths, example) for each in (model, net)]
    for path in sorted(paths, key=len, reverse=True):
        expected, got = (outputs[path] for outputs in pairs)
        if path == "" and not all(a.is_floating_point() for a in expected):
            continue
        for a, b in zip(expected, got, strict=True):
            _check_close(a, b, path)


def _outputs(net: nn.Module, paths: set[str], example: Any) -> dict[str, list[Tensor]]:
    """Run a network and return the tensors that some of its modules returned last."""
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}

    def watch(path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            seen[path] = tensors(output)

        return net.get_submodule(path).register_forward_hook(hook)

    handles = [watch(path) for path in paths]
    try:
        call_model(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _check_close(a: Tensor, b: Tensor, path: str) -> None:
    if not a.is_floating_point() or a.numel() == 0 or torch.equal(a, b):
        return
    error = float((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny))
    if not error <= _ROUNDING.get(a.dtype, 0.1):
        raise InsertionError(
            f"the deployed network must compute what the given one does, but on the example the "
            f"outputs of {path or 'the network'} differ by {error:.1e} of the largest; does it "
            "read its batch norms or convolutions other than by calling them?"
        )
