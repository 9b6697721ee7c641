"""One image beside all: its gates, the channels it moves most, and the maps that they multiply."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from senet import SqueezeExcitation
from senet.analysis import record_gates
from senet.analysis.image_gates import image_gates
from senet.errors import InputError
from tolerances import assert_close


def _net() -> nn.Sequential:
    se = SqueezeExcitation(8, 2)
    nn.init.normal_(se.fc2.weight, std=4)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), se, *head)


def test_gates_channels_and_maps_are_those_of_the_image() -> None:
    net, images = _net(), torch.randn(20, 3, 70, 70)
    gates = record_gates(net, [(images, torch.arange(20) % 3)], classes=["a", "b", "c"])
    seen = image_gates(net, images[3], gates, name="third")
    (block,) = seen.blocks

    with torch.no_grad():
        u = net[0](images[3:4])
        s = net[1].excite(u.mean((2, 3)))[0]
        scores = net(images[3:4]).softmax(1)[0]
    assert_close(block.gate, s, dtype=torch.float32)
    apart = s - gates.blocks[0].channel_mean
    assert block.raised == tuple(apart.argsort(descending=True)[:3].tolist())
    assert block.lowered == tuple(apart.argsort()[:3].tolist())
    assert set(block.maps) == {*block.raised, *block.lowered}
    expected = F.adaptive_avg_pool2d(u[0, block.raised[0]][None, None], 32)[0, 0]
    assert_close(block.maps[block.raised[0]], expected)
    assert [name for name, _ in seen.answer] == ["abc"[k] for k in scores.argsort(descending=True)]
    assert seen.answer[0][1] == pytest.approx(scores.max().item(), rel=1e-4)
    assert not any(module._forward_hooks for module in net.modules())
    kept = json.loads(json.dumps(seen.to_dict(), allow_nan=False))
    assert len(kept["blocks"][0]["maps"]) == 6


def test_gates_of_another_network_are_refused() -> None:
    gates = record_gates(_net(), [torch.randn(4, 3, 8, 8)])
    other = nn.Sequential(nn.Conv2d(3, 4, 3), SqueezeExcitation(4, 2))
    with pytest.raises(InputError, match="gates must be those of this network"):
        image_gates(other, torch.randn(3, 8, 8), gates)
