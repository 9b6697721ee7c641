"""Counts of small networks, against numbers that are worked out by hand in the comments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from senet.cost.model_copies import copied
from senet.cost.op_counter import count_forward, count_parameters, count_step

# The map of all these networks, [2, 4, 8, 8] in float32, and the image, [2, 2, 8, 8].
MAP = 2 * 4 * 8 * 8 * 4
IMAGE = 2 * 2 * 8 * 8 * 4
WEIGHT = 4 * 2 * 9 * 4  # [4, 2, 3, 3]
VECTOR = 4 * 4  # [4]


def image(device: str = "meta") -> Tensor:
    return torch.zeros(2, 2, 8, 8, device=device)


def convolution() -> nn.Conv2d:
    return nn.Conv2d(2, 4, 3, padding=1, bias=False)


def small_net() -> nn.Sequential:
    return nn.Sequential(convolution(), nn.BatchNorm2d(4), nn.ReLU())


class ByHand(nn.Module):
    """An SE block of torch's operators, without biases, hidden width 2."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(2, 4))
        self.w2 = nn.Parameter(torch.zeros(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(x.mean((2, 3)) @ self.w1.t())
        return x * torch.sigmoid(hidden @ self.w2.t())[:, :, None, None]


def test_forward_by_hand() -> None:
    trace = count_forward(copied(small_net(), "meta"), image())

    # 2 images x 8 x 8 places x 4 channels x (2 x 3 x 3) products
    assert trace.macs == {"0": 2 * 8 * 8 * 4 * 18}
    assert +trace.moved == {
        "0": IMAGE + WEIGHT + MAP,
        # the map, gamma, beta, mean, variance; the map and two vectors: the op has three outputs
        "1": (MAP + 4 * VECTOR) + (MAP + 2 * VECTOR),
        "2": MAP + MAP,
    }
    assert trace.kept == {}
    assert trace.without_formula == {"aten::native_batch_norm": 1, "aten::relu": 1}


def test_step_by_hand() -> None:
    trace = count_step(copied(small_net(), "meta"), image())

    convolution = (IMAGE + WEIGHT + MAP) + (MAP + IMAGE + WEIGHT + WEIGHT)
    batches = 8 + 8  # num_batches_tracked, an int64, is read and written
    # forward: reads the map for its statistics and once more, gamma, beta and the running
    # statistics; backward: reads gradient and map for the sums and once more, gamma and four
    # statistics; writes the gradients of the map, of gamma and of beta
    norm = (2 * MAP + 4 * VECTOR) + (MAP + 2 * VECTOR)
    norm += (4 * MAP + 5 * VECTOR) + (MAP + 2 * VECTOR)
    relu = (MAP + MAP) + (MAP + MAP + MAP)
    assert trace.moved == {"0": convolution, "1": batches + norm, "2": relu}
    # the convolution's output, the batch's statistics (mean, 1 / deviation), ReLU's output;
    # neither the image nor a weight
    assert trace.kept == {"0": MAP, "1": 2 * VECTOR, "2": MAP}


def test_in_place_saves_nothing_that_is_counted_twice() -> None:
    net = nn.Sequential(convolution(), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.ReLU())

    trace = count_step(copied(net, "meta"), image())

    assert trace.kept == {"0": MAP, "1": 2 * VECTOR, "2": MAP, "3": MAP}
    # in place: the same storage is read and written
    assert trace.moved["2"] == trace.moved["3"]


def test_se_block_by_hand() -> None:
    net = nn.Sequential(convolution(), ByHand())
    squeeze, hidden = 2 * 4 * 4, 2 * 2 * 4  # [2, 4] and [2, 2]
    weight = 2 * 4 * 4

    use = count_forward(copied(net, "meta"), image())
    step = count_step(copied(net, "meta"), image())

    assert use.macs["1"] == 2 * (4 * 2) + 2 * (2 * 4)
    assert use.moved["1"] == (
        (MAP + squeeze)  # mean
        + (squeeze + weight + hidden)  # first layer
        + (hidden + hidden)  # ReLU
        + (hidden + weight + squeeze)  # second layer
        + (squeeze + squeeze)  # sigmoid
        + (MAP + squeeze + MAP)  # scale
    )
    # the map is what SE adds: the product needs it, and so the convolution's output stays
    assert step.kept == {"0": MAP, "1": squeeze + hidden + squeeze}


def test_parameters_count_once() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3))
    net[1].weight = net[0].weight

    assert count_parameters(net) == {"0": 9, "1": 3}


def test_views_and_allocations_move_nothing() -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.empty_like(x)
            return x.flatten(1)[:, 2:].t().unsqueeze(0).expand(5, -1, -1)

    assert not +count_forward(Views(), image()).moved


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda x: x + x, 2 * IMAGE),  # the same tensor is read once
        (lambda x: x.add_(1), 2 * IMAGE),  # in place: read and written
        (lambda x: x.zero_(), IMAGE),  # written only
        (lambda x: x.copy_(x[:1]), IMAGE // 2 + IMAGE),  # reads the source, writes
        (lambda x: torch.neg(x, out=torch.empty_like(x)), 2 * IMAGE),  # writes what it is given
        (lambda x: x[:, :1].expand_as(x).clone(), IMAGE // 2 + IMAGE),  # expanded: read once
        (lambda x: torch.cat([x, x[:1]]), IMAGE * 3 // 2 + IMAGE * 3 // 2),
    ],
    ids=["twice", "in place", "overwrite", "copy", "out", "expanded", "list"],
)
def test_bytes_of_one_operator(run: Any, expected: int) -> None:
    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return run(x)

    assert sum(count_forward(One(), image()).moved.values()) == expected


def test_a_real_run_counts_the_same() -> None:
    net = nn.Sequential(convolution(), ByHand(), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))

    for count in (count_forward, count_step):
        assert count(copied(net), image("cpu")) == count(copied(net, "meta"), image())


def test_half_precision_has_the_same_multiply_adds_and_half_the_bytes() -> None:
    net = nn.Sequential(convolution(), ByHand())

    single = count_step(copied(net, "meta"), image())
    half = count_step(copied(net.to(torch.bfloat16), "meta"), image().to(torch.bfloat16))

    assert half.macs == single.macs
    assert {path: 2 * moved for path, moved in half.moved.items()} == single.moved
    assert {path: 2 * kept for path, kept in half.kept.items()} == single.kept


def test_frozen_parameters_need_no_kept_activations() -> None:
    net = small_net()
    net[0].requires_grad_(False)

    trace = count_step(copied(net, "meta"), image())

    assert trace.moved["0"] == IMAGE + WEIGHT + MAP
    assert trace.kept == {"0": MAP, "1": 2 * VECTOR, "2": MAP}


def test_the_backward_of_an_own_function_counts_where_it_ran() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(_: Any, gradient: Tensor) -> Tensor:
            return gradient * 2

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Double.apply(x)

    trace = count_step(copied(nn.Sequential(convolution(), Layer(), nn.ReLU()), "meta"), image())

    assert trace.moved["1"] == 4 * MAP


def test_a_recomputed_forward_counts_where_it_runs_again() -> None:
    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(convolution(), nn.Sigmoid())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=False)

    once = count_step(copied(nn.Sequential(Recomputed().body), "meta"), image())
    twice = count_step(copied(Recomputed(), "meta"), image())

    assert twice.moved["body.0"] - once.moved["0.0"] == IMAGE + WEIGHT + MAP
    assert twice.moved["body.1"] - once.moved["0.1"] in (0, 2 * MAP)  # torch may stop early
    assert sum(twice.kept.values()) < sum(once.kept.values())


def test_a_shared_module_counts_every_call() -> None:
    layer = nn.Conv2d(2, 2, 1, bias=False)

    once = count_step(copied(nn.Sequential(layer), "meta"), image())
    twice = count_step(copied(nn.Sequential(layer, layer), "meta"), image())

    assert twice.macs["0"] > 2 * once.macs["0"]  # the second call has a gradient of its input too
    assert set(twice.macs) == {"0"}
