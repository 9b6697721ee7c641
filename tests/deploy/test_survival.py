"""What a deployed network survives: tracing, scripting, export, compilation, copies, types."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import senet
from senet.deploy import deploy
from senet.deploy.canonical import ChannelGate, GatedConv, GatedConvAdd
from senet.errors import InsertionError

sys.path.append(str(Path(__file__).parent))
from as_trained import as_trained, assert_equal, bottleneck, example, outputs

pytestmark = pytest.mark.usefixtures("float64")


def test_a_deployed_network_gets_no_blocks() -> None:
    _, deployed, x = survivor()

    with pytest.raises(InsertionError, match="deployed for inference; insert into the network"):
        senet.insert(deployed, x)


def survivor() -> tuple[nn.Module, nn.Module, Tensor]:
    net, x = bottleneck(2), example(2)
    senet.insert(net, x, senet.SEConfig(reduction=2))
    as_trained(net)
    return net, deploy(net, x), x


def pickled(net: nn.Module, x: Tensor) -> Any:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


_DIM = torch.export.Dim


def exported(net: nn.Module, x: Tensor) -> Any:
    sizes = ({0: _DIM("n"), 2: _DIM("h", min=8), 3: _DIM("w", min=8)},)
    return torch.export.export(net, (x,), dynamic_shapes=sizes).module()


SURVIVES: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "deepcopy": lambda net, x: copy.deepcopy(net),
    "pickle": pickled,
    "jit.trace": torch.jit.trace,
    "jit.script": lambda net, x: torch.jit.script(net),
    "fx": lambda net, x: torch.fx.symbolic_trace(net),
    "export": exported,
    "compile": lambda net, x: torch.compile(net, fullgraph=True, backend="aot_eager"),
}


@pytest.mark.parametrize("way", SURVIVES)
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_deployed_network_survives(way: str) -> None:
    net, deployed, x = survivor()

    again = SURVIVES[way](deployed, x)

    assert_equal(net, again, x)
    other = torch.randn(3, 3, 11, 10)
    assert_equal(net, again, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_deployed_network_in_another_type(dtype: torch.dtype) -> None:
    net, deployed, x = survivor()

    (expected,), (got,) = outputs(net, x), outputs(copy.deepcopy(deployed).to(dtype), x.to(dtype))

    assert got.dtype == dtype
    assert (got - expected).abs().max() <= 8 * torch.finfo(dtype).eps * expected.abs().max()


def test_state_and_gradients() -> None:
    _, deployed, _ = survivor()

    assert not any(p.requires_grad for p in deployed.parameters())
    assert not deployed.training
    assert not any("running" in key for key in deployed.state_dict())


class Kept(nn.Module):
    """A convolution, and its last output."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        self.y = self.conv(x)
        return self.y  # type: ignore[no-any-return]


def gated(kind: type[GatedConv]) -> tuple[GatedConv, tuple[Tensor, ...], Tensor]:
    """A convolution with its gate, what it is called with, and what it returns."""
    layers = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid())
    module = kind(Kept(nn.Conv2d(4, 8, 1)), ChannelGate(layers, 2, "avg"))
    module.requires_grad_(requires_grad=False)
    given = (torch.randn(2, 4, 6, 5), torch.randn(2, 8, 6, 5))[: 1 + (kind is GatedConvAdd)]
    expected = module.conv.conv(given[0]) * layers(given[0].mean((2, 3), keepdim=True))  # type: ignore[union-attr, operator]
    return module, given, sum(given[1:], expected)


@pytest.mark.parametrize("kind", [GatedConv, GatedConvAdd])
def test_the_product_takes_the_memory_of_the_convolution(kind: type[GatedConv]) -> None:
    module, given, expected = gated(kind)

    with torch.no_grad():
        out = module(*given)

    assert torch.allclose(out, expected, rtol=1e-12)
    assert out.data_ptr() == module.conv.y.data_ptr()  # type: ignore[union-attr, operator]


def hooked(module: GatedConv, given: tuple[Tensor, ...]) -> Any:
    module.conv.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        return module(*given)


def differentiated(module: GatedConv, given: tuple[Tensor, ...]) -> Any:
    x = given[0].requires_grad_()
    out = module(x, *given[1:])
    assert torch.autograd.grad(out.sum(), x)[0].abs().min() > 0
    return out.detach()


def of_another_type(module: GatedConv, given: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        return module(given[0], *(each.float() for each in given[1:]))


def mapped(module: GatedConv, given: tuple[Tensor, ...]) -> Any:
    def one(*parts: Tensor) -> Any:
        return module(*(part[None] for part in parts))[0]

    with torch.no_grad():
        return torch.vmap(one)(*given)


def counted(module: GatedConv, given: tuple[Tensor, ...]) -> Any:
    with torch.no_grad(), FlopCounterMode(display=False):
        return module(*given)


@pytest.mark.parametrize("kind", [GatedConv, GatedConvAdd])
@pytest.mark.parametrize("way", [hooked, differentiated, of_another_type, mapped, counted])
def test_and_does_not_where_somebody_else_may_have_it(
    kind: type[GatedConv], way: Callable[[GatedConv, tuple[Tensor, ...]], Any]
) -> None:
    module, given, expected = gated(kind)
    if way is of_another_type and kind is GatedConv:
        module.gate.float()
        given = (given[0],)
        module.gate.register_forward_pre_hook(lambda _, args: (args[0].float(),))

    out = way(module, given)

    assert torch.allclose(out, expected, atol=1e-6)
    if way is not mapped:
        assert out.data_ptr() != module.conv.y.data_ptr()  # type: ignore[union-attr, operator]


def operators(net: nn.Module, *given: Tensor) -> list[str]:
    with torch.profiler.profile() as profiled, torch.no_grad():
        net(*given)
    return [event.key.removeprefix("aten::") for event in profiled.key_averages()]


def test_pytorch_computes_the_layers_of_a_gate_as_matrices() -> None:
    layers = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1), nn.Sigmoid())
    gate, x = ChannelGate(layers, 2, "avg").float().eval(), torch.randn(2, 4, 5, 5).float()

    assert "conv2d" not in operators(gate, x)
    assert "conv2d" in operators(gate, x[:1])  # the same product, with fewer calls
    exported, symbolic = torch.export.export(gate, (x,)).module(), torch.fx.symbolic_trace(gate)
    assert [node.target for node in exported.graph.nodes].count(torch.ops.aten.conv2d.default) == 2
    assert {"layers.0", "layers.2"} <= {str(node.target) for node in symbolic.graph.nodes}
    seen: list[Tensor] = []
    layers[2].register_forward_hook(lambda _, args, out: seen.append(out))
    gate(x)
    assert [each.shape for each in seen] == [(2, 4, 1, 1)]
