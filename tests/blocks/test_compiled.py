"""What a network under torch.compile keeps for the backward."""

from __future__ import annotations

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import nn
from torch._dynamo.backends.common import aot_autograd

import senet


class _Saved:
    """A backend of torch.compile that computes eagerly and notes the maps kept for the backward."""

    def __init__(self) -> None:
        self.maps: list[tuple[torch.dtype, int]] = []

    def forward(self, graph: torch.fx.GraphModule, _inputs: object) -> object:
        (outputs,) = graph.graph.output_node().args
        saved = [node.meta.get("val") for node in outputs[1:] if node is not None]  # behind y
        maps = [t for t in saved if isinstance(t, torch.Tensor) and t.dim() == 4]
        self.maps += [(t.dtype, t.shape[1]) for t in maps if t.shape[-1] > 1]  # no weights
        return make_boxed_func(graph.forward)

    def __call__(self, graph: torch.fx.GraphModule, inputs: object) -> object:
        compiler = aot_autograd(
            fw_compiler=self.forward,
            bw_compiler=lambda graph, _: make_boxed_func(graph.forward),
            partition_fn=min_cut_rematerialization_partition,
        )
        return compiler(graph, inputs)


# SiLU's slope has a sigmoid to keep or to compute again; ReLU6 has less to go wrong.
@pytest.mark.parametrize(
    "activation", [None, pytest.param(nn.ReLU6, marks=pytest.mark.slow), nn.SiLU]
)
def test_a_network_compiled_in_bf16_keeps_the_map_as_it_is(activation) -> None:
    channels, last = 32, nn.Identity() if activation is None else activation()
    unit = nn.Sequential(nn.Conv2d(8, channels, 1, bias=False), nn.BatchNorm2d(channels), last)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), unit, nn.Conv2d(channels, 8, 1))
    x = torch.randn(2, 3, 12, 12)
    if activation is None:
        unit[1] = senet.SEBatchNorm2d(channels)
    else:
        senet.insert(net, x, senet.SEConfig(include="1.2"))
    saved = _Saved()
    compiled = torch.compile(net, backend=saved, fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = compiled(x).float().mean()
    loss.backward()
    # the map before the norm, and the next convolution's input; no wide copy of either
    assert [kept for kept in saved.maps if kept[1] == channels] == [(torch.bfloat16, channels)] * 2
