"""Shake-Shake: the mixtures, their gradients, the shifted shortcut."""

from __future__ import annotations

import pytest
import torch

from senet.errors import ConfigError, UnknownNameError
from senet.models import PreActResNet, ShakeNet
from senet.models.nets.shake import Shake, _Shortcut


def gradients(shake: Shake) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return alpha and beta of each image, and the sums of the two gradients."""
    a, b = torch.ones(6, 2, 3, 3, requires_grad=True), torch.zeros(6, 2, 3, 3, requires_grad=True)
    y = shake(a, b)
    y.sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    return y.detach(), a.grad, b.grad


@pytest.mark.parametrize("backward", ["shake", "even"])
def test_one_random_number_for_each_image_and_direction(backward: str) -> None:
    y, da, db = gradients(Shake(backward).train())

    for value in (y, da):
        assert (value == value[:, :1, :1, :1]).all()  # the same within an image
        assert ((value >= 0) & (value <= 1)).all()
    assert len(y[:, 0, 0, 0].unique()) == 6
    assert torch.allclose(da + db, torch.ones_like(da))
    if backward == "even":
        assert (da == 0.5).all()
    else:
        assert len(da[:, 0, 0, 0].unique()) == 6
        assert not torch.allclose(y, da)


def test_evaluation_takes_the_mean() -> None:
    a, b = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3)

    assert torch.allclose(Shake().eval()(a, b), (a + b) / 2)


def test_the_shortcut_joins_two_shifted_halves() -> None:
    shortcut = _Shortcut(2, 4, stride=2).eval()
    x = torch.randn(1, 2, 5, 6)

    with torch.no_grad():
        out = shortcut(x)
        active = x.clamp_min(0)
        first = torch.einsum(
            "oi,nihw->nohw", shortcut.conv1.weight[..., 0, 0], active[..., ::2, ::2]
        )
        second = torch.zeros(1, 2, 3, 3)
        for row in range(3):
            for column in range(3):
                if row and column:  # one pixel up and to the left; outside are zeros
                    pixel = active[0, :, 2 * row - 1, 2 * column - 1]
                    second[0, :, row, column] = shortcut.conv2.weight[..., 0, 0] @ pixel

    expected = torch.cat((first, second), dim=1) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ShakeNet(depth=27, base=96), r"depth must be 6n \+ 2 with n >= 1, got 27; try 26"),
        (lambda: ShakeNet(depth=28, base=64, groups=4), r"must be 9n \+ 2 .* got 28; try 29"),
        (lambda: PreActResNet(depth=18), r"must be 6n \+ 4 with n >= 1, got 18; try 16"),
        (lambda: PreActResNet(depth=100, bottleneck=True), r"9n \+ 2 .* got 100; try 164"),
    ],
)
def test_impossible_depths_are_refused(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_an_unknown_backward_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown backward 'evn'; did you mean: even"):
        ShakeNet(depth=8, base=8, backward="evn")


def test_training_changes_and_evaluation_repeats() -> None:
    model = ShakeNet(depth=8, base=8)
    x = torch.randn(4, 3, 8, 8)

    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
