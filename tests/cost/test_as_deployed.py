"""Both networks as `senet.deploy` leaves them: counted, timed, or the reason why not."""

from __future__ import annotations

import torch
from torch import Tensor

from cost.measured import Tiny, image, quick
from senet.cost import cost


def test_the_deployed_networks_are_counted_as_if_trained() -> None:
    net = Tiny()
    report = quick(net, image(), as_deployed=True)

    assert report.deployed is not None
    total = report.deployed.total
    folded = sum(p.numel() for p in net.parameters()) - 2 * 16  # two gammas; betas are biases now
    # two layers, 16 to 1 to 16, with biases: of the untrained block something is left
    assert total.values("parameters") == (folded, folded + 16 + 1 + 16 + 16)
    assert total.values("macs") == report.total.values("macs")
    plain, counted = total.values("bytes_moved_forward"), report.total.values("bytes_moved_forward")
    assert all(a < b for a, b in zip(plain, counted, strict=True))
    assert report.deployed.latency is None
    assert report.to_dict()["timing"] is None
    assert quick(net, image()).deployed is None


def test_the_deployed_networks_are_timed_with_the_others() -> None:
    report = cost(Tiny(), image(), repeats=2, warmup=0)

    assert report.deployed is not None
    assert report.deployed.latency is not None
    assert [len(each) for each in report.deployed.latency.samples.values()] == [2, 2]


class Shifting(Tiny):
    """Computes something else each time, so that no other network can agree with it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(())


def test_what_cannot_be_deployed_is_said() -> None:
    report = quick(Shifting(), image(), as_deployed=True)

    assert report.deployed is None
    assert "InsertionError" in report.unavailable["deployed"]
    assert "not available: deployed: InsertionError" in str(report)
