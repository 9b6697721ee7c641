"""What the tests of deployment share: networks as training leaves them, and their comparison."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import senet
from senet.deploy import Deployment


def as_trained(net: nn.Module) -> nn.Module:
    """Give batch norms and blocks values as training leaves them, and return the network."""
    for module in net.modules():
        if hasattr(module, "running_var") and module.running_var is not None:
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, senet.SqueezeExcitation):
            nn.init.normal_(module.fc2.weight, std=0.1)
            if module.fc2.bias is not None:
                nn.init.normal_(module.fc2.bias, std=0.3)
    return net.eval()


def outputs(net: nn.Module, x: Any) -> list[Tensor]:
    with torch.no_grad(), senet.use_backend("reference"):
        out = net(*x) if isinstance(x, tuple) else net(x)
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


def assert_equal(net: nn.Module, deployed: nn.Module, x: Any, *, allowed: float = 1e-10) -> None:
    expected, got = outputs(net, x), outputs(deployed, x)
    assert len(expected) == len(got) > 0
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= allowed * a.abs().max()


def deploys(net: nn.Module, x: Any) -> Deployment:
    """Check both forms of a network: equal in float64, and in float32 but for rounding."""
    normalised(as_trained(net), x)
    for form in ("portable", "fast"):
        deployed = senet.deploy(net, x, form=form)
        assert_equal(net, deployed, x)
    done = report(deployed)
    exact = outputs(net, x)
    single = tree_map_only(Tensor, lambda leaf: leaf.to(torch.float32), x)
    pairs = zip(exact, outputs(net.float(), single), outputs(deployed.float(), single), strict=True)
    for truth, a, b in pairs:
        given, error = (float((y - truth).abs().max() / truth.abs().max()) for y in (a, b))
        assert error <= max(1e-5, 3 * given), f"float32: {error:.1e}, given network {given:.1e}"
        if truth.dim() == 2:
            best, second = truth.topk(2).values.T
            clear = best - second > 1e-4 * truth.abs().max()
            assert torch.equal(a.argmax(1)[clear], b.argmax(1)[clear]), "float32: other classes"
    return done


def normalised(net: nn.Module, x: Any) -> None:
    """Give batch norms the statistics of an input: with others a deep network's maps explode."""
    momenta = {module: module.momentum for module in net.modules() if hasattr(module, "momentum")}
    for module in momenta:
        module.momentum = 1.0
    net.train()
    outputs(net, x)
    for module, momentum in momenta.items():
        module.momentum = momentum
    net.eval()


def report(deployed: nn.Module) -> Deployment:
    assert isinstance(deployed.deployment, Deployment)
    return deployed.deployment


class Bottleneck(nn.Module):
    """The tail of a bottleneck in any number of dimensions."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        conv, norm = getattr(nn, f"Conv{dims}d"), getattr(nn, f"BatchNorm{dims}d")
        self.a, self.na = conv(8, 4, 3, padding=1), norm(4)
        self.b, self.nb = conv(4, 8, 1, bias=False), norm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.na(self.a(x)))
        return torch.relu(x + self.nb(self.b(y)))


def bottleneck(dims: int) -> nn.Module:
    conv, norm = getattr(nn, f"Conv{dims}d"), getattr(nn, f"BatchNorm{dims}d")
    return nn.Sequential(conv(3, 8, 3), norm(8), nn.ReLU(), Bottleneck(dims), Bottleneck(dims))


def example(dims: int) -> Tensor:
    return torch.randn(2, 3, *(9, 8, 7)[:dims])
