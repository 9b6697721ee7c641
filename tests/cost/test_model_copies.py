"""Models are run as copies, and any nesting of tensors goes in and comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet.cost.model_copies import (
    copied,
    copied_input,
    differentiable,
    forward,
    reason_of,
    train_step,
)
from senet.errors import InputError
from senet.insertion.reading import tensors


def test_on_meta_has_no_storage_and_leaves_the_model() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    net[0].weight.requires_grad_(False)

    copy = copied(net, "meta")

    assert {tensor.device.type for tensor in copy.state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in net.state_dict().values()} == {"cpu"}
    assert [p.requires_grad for p in copy.parameters()] == [False, True, True, True]
    assert all(isinstance(p, nn.Parameter) for p in copy.parameters())


def test_on_meta_keeps_shared_parameters_shared() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight

    copy = copied(net, "meta")

    assert copy[0].weight is copy[1].weight


def test_a_model_that_cannot_be_copied_is_named() -> None:
    class Stubborn(nn.Module):
        def __deepcopy__(self, memo: object) -> Any:
            raise TypeError("cannot pickle\na lock")

    message = r"copy\.deepcopy copies, but Stubborn gave TypeError: cannot pickle; "
    with pytest.raises(InputError, match=message):
        copied(Stubborn())


def test_a_cached_activation_is_copied_without_its_graph() -> None:
    net = nn.Conv2d(2, 3, 1)
    net.last = net(torch.ones(1, 2, 4, 4))  # copy.deepcopy refuses what has a graph

    assert torch.equal(copied(net).last, net.last)  # type: ignore[arg-type]
    assert copied(net, "meta").last.is_meta  # type: ignore[union-attr]


def test_inputs_are_copied_in_any_nesting() -> None:
    image, boxes = torch.rand(3, 4, 4), torch.rand(2, 4)
    tree = {"images": [image], "boxes": (boxes, 7)}

    real, meta = copied_input(tree), copied_input(tree, "meta")
    real["images"][0].zero_()

    assert image.sum() > 0
    assert real["boxes"][1] == 7
    assert [tuple(t.shape) for t in tensors(meta)] == [(3, 4, 4), (2, 4)]
    assert all(t.is_meta for t in tensors(meta))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: (y, None),
        lambda y: {"out": y, "classes": torch.zeros(1, dtype=torch.long)},
        lambda y: [{"boxes": y}],
    ],
    ids=["tensor", "tuple", "dict", "list of dicts"],
)
def test_a_step_starts_from_whatever_comes_out(wrap: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Any:
            return wrap(self.layer(x))

    net = Net()
    train_step(net, torch.ones(5, 2))

    # the gradient of the sum of all outputs
    assert net.layer.bias.grad is not None
    assert net.layer.bias.grad.tolist() == [5.0, 5.0, 5.0]


def test_a_step_starts_from_no_gradient() -> None:
    net = nn.Linear(2, 1)
    train_step(net, torch.ones(1, 2))
    train_step(net, torch.ones(1, 2))

    assert net.weight.grad is not None
    assert net.weight.grad.tolist() == [[1.0, 1.0]]


def test_a_step_without_anything_to_learn_is_refused() -> None:
    with pytest.raises(InputError, match="got none in a tuple; unfreeze a parameter"):
        differentiable((torch.ones(1), 3))


def test_forward_takes_a_tuple_or_a_mapping() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Tensor:
            return x if scale is None else x * scale

    assert forward(Net(), (torch.ones(2),)).sum() == 2
    assert forward(Net(), {"x": torch.ones(2), "scale": torch.full((2,), 3.0)}).sum() == 6


def test_a_reason_is_one_line_of_bounded_length() -> None:
    assert reason_of(ValueError("one\ntwo")) == "ValueError: one"
    assert reason_of(KeyError()) == "KeyError"
    assert len(reason_of(ValueError("x" * 500))) == len("ValueError: ") + 160
