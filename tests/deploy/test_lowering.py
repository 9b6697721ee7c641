"""The portable form in the tools of telephones, where their packages are installed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import senet
from deploy.as_trained import as_trained, bottleneck, example

pytestmark = pytest.mark.filterwarnings("ignore::Warning")
GATES = ("sigmoid", "tanh", "relu", "hard_sigmoid")


def portable(excitation: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """Two bottlenecks with a block each, as trained and as deployed."""
    net, x = bottleneck(2), example(2)
    senet.insert(net, x, senet.SEConfig(reduction=2, excitation=excitation))
    as_trained(net)
    return net, senet.deploy(net, x, form="portable"), x


@pytest.mark.parametrize("excitation", GATES)
def test_xnnpack_takes_the_whole_network(excitation: str) -> None:
    """One delegate, no operator of the blocks outside of it, and the program computes the same."""
    exir = pytest.importorskip("executorch.exir", reason="ExecuTorch is in no extra")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.runtime import Runtime

    net, deployed, x = portable(excitation)
    program = torch.export.export(deployed, (x,))
    lowered = exir.to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])

    nodes = lowered.exported_program().graph.nodes
    calls = Counter(str(node.target) for node in nodes if node.op == "call_function")
    assert calls["executorch_call_delegate"] == 1
    assert not any("aten" in call for call in calls)
    buffer = lowered.to_executorch().buffer  # which the program reads while it runs
    loaded = Runtime.get().load_program(buffer)
    (got,) = loaded.load_method("forward").execute([x])
    with torch.no_grad():
        assert torch.allclose(got, net(x), atol=1e-5)


@pytest.mark.parametrize("excitation", GATES)
def test_core_ml_takes_the_whole_network(excitation: str) -> None:
    """Mean, two convolutions, gate and product of each block; to run it needs macOS."""
    tools = pytest.importorskip("coremltools", reason="coremltools is in no extra")

    _, deployed, x = portable(excitation)
    made = tools.convert(
        torch.jit.trace(deployed, x),
        inputs=[tools.TensorType(shape=x.shape)],
        convert_to="mlprogram",
        skip_model_load=True,
    )

    operators = Counter(op.op_type for op in made._mil_program.functions["main"].operations)
    assert operators["conv"] == 5 + 4
    assert operators["reduce_mean"] == operators["mul"] == 2
    assert operators["sigmoid"] + operators["sigmoid_hard"] + operators["relu"] == 7 + 2
