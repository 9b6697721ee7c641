"""A batch norm with SE is counted as what runs: the closed form's passes, or module by module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.cost.model_copies import copied
from senet.cost.op_counter import RunCounts, count_forward, count_step

N, C, L = 8, 64, 64 * 64
MAP = N * C * L * 4
SMALL = 40 * N * C * 4  # room for vectors [N, C] and [C], and the block's weights


class Activated(nn.Module):
    """Batch norm, ReLU6 and SE, as one op or as modules in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.se = nn.BatchNorm2d(C), senet.SqueezeExcitation(C)

    def forward(self, x: Tensor) -> Tensor:
        norm, options = self.norm, {"inner_activation": "relu6", "training": self.training}
        statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
        return senet.ops.batch_norm_se(x, *statistics, self.se.excitation(), **options)


def network(*, tail: bool = False) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.relu = senet.SEBatchNorm2d(C), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            if tail:
                return senet.blocks.residual_tail(self.norm, x, x, self.relu)
            return self.norm(x)

    return copied(Net(), "meta")


def leaf(size: int = 64) -> Tensor:
    return torch.zeros(N, C, size, size, device="meta", requires_grad=True)


def maps_moved(trace: RunCounts) -> float:
    return trace.moved.total() / MAP


@pytest.mark.parametrize(("tail", "passes"), [(False, 8), (True, 11)])
def test_a_step_is_the_passes_of_the_derivation(tail: bool, passes: int) -> None:
    # docs/free-se.md: read for the statistics, read and write for the affine map; back: read g and
    # U for the sums, read both and write dU. With the tail 1 + 3 and 4 + 3, and here, where the
    # identity is the input itself, autograd adds its two gradients: 3 more.
    trace = count_step(network(tail=tail), leaf())
    extra = 3 if tail else 0
    assert passes + extra <= maps_moved(trace) < passes + extra + SMALL / MAP
    kept = 1 if tail else 0  # the output behind the ReLU; U is the example input
    assert kept <= trace.kept.total() / MAP < kept + SMALL / MAP
    assert trace.without_formula["senet::statistics"] == 1


def test_evaluation_reads_for_the_squeeze_and_again_for_the_scale() -> None:
    trace = count_forward(network(), leaf())
    assert 3 <= maps_moved(trace) < 3 + SMALL / MAP


def test_multiply_adds_are_those_of_the_two_layers() -> None:
    assert count_forward(network(), leaf()).macs.total() == N * 2 * C * (C // 16)


def test_small_maps_are_counted_module_by_module() -> None:
    trace = count_step(network(), leaf(size=8))
    assert trace.without_formula["aten::native_batch_norm"] == 1
    assert "senet::statistics" not in trace.without_formula


def test_the_reference_is_counted_where_it_is_chosen() -> None:
    with senet.use_backend("reference"):
        trace = count_step(network(), leaf())
    # 8 of the batch norm; squeeze 1, scale 2; back: s g 2, y g 3, its sum 1, dz / L as a map 1 and
    # added 3; less what autograd does in fewer
    assert maps_moved(trace) > 8 + 1 + 2 + 2 + 3
    assert trace.kept.total() >= MAP  # batch norm's output


def test_behind_an_activation_a_step_moves_less_than_batch_norm_and_activation_alone() -> None:
    trace = count_step(copied(Activated(), "meta"), leaf())
    # read for the statistics, for the squeeze, read and write; back: read g and U, read both, write
    assert 9 <= maps_moved(trace) < 9 + SMALL / MAP
    assert trace.kept.total() < SMALL  # U is the example input
    plain = count_step(copied(nn.Sequential(nn.BatchNorm2d(C), nn.ReLU6()), "meta"), leaf())
    assert 13 <= maps_moved(plain) < 13 + SMALL / MAP
    assert plain.kept.total() >= MAP  # batch norm's output, for the activation


def test_behind_an_activation_evaluation_reads_twice_and_writes_once() -> None:
    assert 3 <= maps_moved(count_forward(copied(Activated(), "meta"), leaf())) < 3 + SMALL / MAP
