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

import senet
from senet.deploy import deploy
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
