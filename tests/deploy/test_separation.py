"""A network is copied with its hooks and its forwards, and every block is a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import senet
from deploy.as_trained import as_trained, assert_equal, bottleneck, example, report
from senet.deploy import deploy
from senet.errors import InsertionError

pytestmark = pytest.mark.usefixtures("float64")


def test_parametrised_layers_and_layers_with_hooks() -> None:
    net, x = bottleneck(2), example(2)
    torch.nn.utils.parametrizations.spectral_norm(net[0])
    net[3].a.register_forward_hook(lambda module, args, output: 2 * output)
    as_trained(net)

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert "1" in report(deployed).folded  # the spectral norm is computed once and for all
    assert "3.na" not in report(deployed).folded


def pruned(net: nn.Module) -> None:
    prune.l1_unstructured(net[0], "weight", amount=0.5)  # type: ignore[index]
    prune.l1_unstructured(net[0], "weight", amount=0.5)  # type: ignore[index]
    (first, *_) = senet.se_modules(net).values()
    prune.random_unstructured(first.fc1, "weight", amount=0.5)


OLD_WAYS: dict[str, Callable[[Any], Any]] = {
    "prune": pruned,
    "weight_norm": lambda net: nn.utils.weight_norm(net[0]),
    "spectral_norm": lambda net: nn.utils.spectral_norm(net[0]),
}


@pytest.mark.parametrize("way", OLD_WAYS)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_weights_that_a_hook_computes_before_each_call(way: str) -> None:
    net, x = bottleneck(2), example(2)
    senet.insert(net, x, senet.SEConfig(reduction=2))
    as_trained(net)
    OLD_WAYS[way](net)
    net(x)  # the weights are results of an operation now

    deployed = deploy(net, x)

    assert_equal(net, deployed, x)
    assert report(deployed).kept == []
    assert "1" in report(deployed).folded


@pytest.mark.parametrize("form", ["fast", "portable"])
@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("where", ["1", "3", "3.b", "3.nb", "3.nb.se", "3.nb.se.gate"])
def test_hooks_go_on_seeing_what_they_saw(where: str, changes: bool, form: str) -> None:
    """Some read features, some change them; a module that is rewritten must not lose them."""
    net, x = bottleneck(2), example(2)
    senet.insert(net, x, senet.SEConfig(reduction=2))
    as_trained(net)
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        seen.append(output)
        return 2 * output if changes else None

    net.get_submodule(where).register_forward_hook(hook)
    deployed = deploy(net, x, form=form)
    seen.clear()

    assert_equal(net, deployed, x)
    expected, got = seen
    assert (got - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert report(deployed).kept == (
        [(where.partition(".se")[0] + ".1", "it or a part of it has a hook")] if ".se" in where
        else [("3.nb.0", "no convolution feeds this batch norm alone")] if where == "3.b"
        else [("1", OWN_NORM)] if where == "1" else []
    )  # fmt: skip


def test_hooks_inside_a_graph_stay_those_of_the_network() -> None:
    """A hook that is a method of an object in the network fills that object, not a copy of it."""
    net, x = bottleneck(2), example(2)
    senet.insert(net, x, senet.SEConfig(reduction=2))
    as_trained(net)
    net.features = Features()  # type: ignore[assignment]
    net[3].a.register_forward_hook(net.features.keep)

    deployed: Any = deploy(net, x)
    deployed.features.kept.clear()

    assert_equal(net, deployed, x)
    assert "3" in report(deployed).joined
    assert len(deployed.features.kept) == 1


class Features:
    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def keep(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.kept.append(output)


OWN_NORM = "it takes the statistics of the batch, has a hook, or is of a class of its own"


def test_batch_norms_without_running_statistics_are_named() -> None:
    net, x = (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)),
        example(2),
    )

    deployed = deploy(net.eval(), x)

    assert_equal(net, deployed, x)
    assert report(deployed).kept == [("1", OWN_NORM)]


def wrapped(inner: Callable[..., Any]) -> Callable[..., Any]:
    """What accelerate and others leave on a module."""
    return lambda *args, **kwargs: inner(*args, **kwargs)


@pytest.mark.parametrize("path", ["", "3", "3.nb", "0"])
@pytest.mark.parametrize("first", [True, False])
def test_a_forward_that_would_run_the_given_network_is_refused(path: str, first: bool) -> None:
    net, x = bottleneck(2), example(2)
    if not first:
        senet.insert(net, x, senet.SEConfig(reduction=2))
    module = net.get_submodule(path)
    module.forward = wrapped(module.forward)  # type: ignore[method-assign]
    if first:
        senet.insert(net, x, senet.SEConfig(reduction=2))

    with pytest.raises(InsertionError, match="take it off"):
        deploy(net, x)


def test_a_method_set_as_forward_is_copied_along() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), example(2)
    net[0].forward = net[0].forward  # type: ignore[method-assign]
    as_trained(net)

    deployed = deploy(net, x)
    nn.init.zeros_(net[0].weight)

    assert deployed(x).abs().max() > 0
