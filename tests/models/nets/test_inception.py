"""BN-Inception: Caffe's pooling, and what the concatenations hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from senet.models import BNInception
from senet.models.nets.inception import _CeilPool


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (9, 5), (1, 3), (2, 2)])
def test_ceil_pool_is_the_maximum_at_every_second_position(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)

    out = _CeilPool()(x)

    assert out.shape == (2, 3, (height + 1) // 2, (width + 1) // 2)
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            window = x[..., 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            assert torch.equal(out[..., row, column], window.amax((2, 3)))


def test_the_average_counts_the_padding() -> None:
    pool = BNInception().inception_3a.pool

    out = pool(torch.ones(1, 1, 4, 4))

    assert out[0, 0, 0, 0].item() == pytest.approx(4 / 9)
    assert out[0, 0, 0, 1].item() == pytest.approx(6 / 9)
    assert out[0, 0, 1, 1].item() == 1


def test_which_modules_pool_how() -> None:
    model = BNInception()
    kinds = {
        name.removeprefix("inception_"): type(module.pool).__name__
        for name, module in model.named_children()
        if name.startswith("inception_")
    }

    assert [n for n, kind in kinds.items() if kind == "_CeilPool"] == ["3c", "4e"]
    assert [n for n, kind in kinds.items() if kind == "MaxPool2d"] == ["5b"]
    assert len(kinds) == 10


def test_the_branches_are_concatenated_in_the_authors_order() -> None:
    module = BNInception(se=None).eval().inception_3a
    x = torch.randn(1, 192, 6, 6)
    with torch.no_grad():
        out = module(x)

        first = module.conv1x1(x)
        second = module.conv3x3(module.conv3x3_reduce(x))
        last = module.pool_proj(module.pool(x))
    assert torch.equal(out[:, :64], first)
    assert torch.equal(out[:, 64:128], second)
    assert torch.equal(out[:, -32:], last)
    assert (out >= 0).all()  # every branch ends with its ReLU


def test_a_strided_module_passes_its_pooled_input_through() -> None:
    module = BNInception().eval().inception_3c
    x = torch.randn(1, 320, 6, 6)

    with torch.no_grad():
        out = module(x)

    assert out.shape == (1, 576, 3, 3)
    assert torch.equal(out[:, -320:], nn.functional.max_pool2d(x, 3, 2, ceil_mode=True))


@pytest.mark.parametrize("size", [33, 64, 75, 80])
def test_takes_images_of_any_size(size: int) -> None:
    model = BNInception(se={"reduction": 16}, num_classes=3).eval()
    with torch.no_grad():
        maps = model.forward_features(torch.zeros(1, 3, size, size))

    assert maps.shape == (1, 1024, -(-size // 32), -(-size // 32))
