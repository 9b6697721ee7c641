"""The compiled stages on a CUDA device against the reference in float64 on the CPU (`make gpu`)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import senet
from senet import ops
from senet.blocks import residual_tail

pytestmark = pytest.mark.gpu
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


class Residual(nn.Module):
    """The end of a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = senet.SEBatchNorm2d(32, se={"reduction": 4}), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return residual_tail(self.norm, x, 1 - x, self.act)


class Alone(nn.Module):
    """A block behind an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.se = senet.SqueezeExcitation(32, reduction=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.se(x)


def results(model: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    y = model(x)
    y.backward(grad.to(y.dtype))
    values = {"y": y.detach(), "dx": x.grad, **{n: p.grad for n, p in model.named_parameters()}}
    values |= {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    return {name: t.double().cpu() for name, t in values.items()}


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", [Residual, Alone])
@pytest.mark.parametrize("training", [True, False])
def test_compiled_stages(kind, training: bool, dtype: torch.dtype, memory) -> None:
    model = kind().train(training)
    exact = copy.deepcopy(model).double()
    x = torch.randn(6, 32, 9, 7).to(dtype)
    grad = torch.randn(6, 32, 9, 7).to(dtype)
    with ops.use_backend("reference"):
        truth = results(exact, x.double(), grad)
    x = x.cuda().contiguous(memory_format=memory)
    with ops.use_backend("inductor"):
        values = results(model.cuda(), x, grad.cuda())
    assert ops.backend("cuda").name == "inductor", ops.backend("cuda")
    assert values.keys() == truth.keys()
    for name, true in truth.items():
        scale = true.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(
            values[name] / scale, true / scale, rtol=0, atol=TOLERANCE[dtype], msg=name
        )


def test_a_warm_network_trains_as_the_reference_does() -> None:
    torch.manual_seed(0)
    warm = senet.create_model("se_resnet20").cuda().to(memory_format=torch.channels_last)
    plain = copy.deepcopy(warm)
    x = torch.randn(8, 3, 16, 16, device="cuda").contiguous(memory_format=torch.channels_last)
    assert senet.warm_up(warm, x).name == "inductor"
    for _ in range(3):
        y = warm(x)
        with ops.use_backend("reference"):
            z = plain(x)
        torch.testing.assert_close(y, z, rtol=1e-3, atol=1e-3)
    for mine, theirs in zip(warm.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_a_network_compiled_as_a_whole() -> None:
    model = Residual().cuda()
    whole = torch.compile(copy.deepcopy(model), fullgraph=True)
    x, grad = torch.randn(2, 6, 32, 9, 7, device="cuda").unbind()
    with ops.use_backend("reference"):
        truth = results(model, x, grad)
    values = results(whole, x, grad)
    for (name, mine), true in zip(values.items(), truth.values(), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-4, msg=name)
