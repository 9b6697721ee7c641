"""The mathematics against a second implementation: every value, and every gradient by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import reference
from senet import functional
from senet.errors import ConfigError, InputError, UnknownNameError
from tolerances import assert_close

SHAPES = {
    "0d": (3, 5),
    "1d": (2, 5, 7),
    "2d": (2, 5, 3, 4),
    "3d": (2, 5, 2, 3, 2),
    "4d": (2, 5, 2, 1, 3, 2),
    "one position": (2, 5, 1, 1),
    "one sample, one channel": (1, 1, 3, 3),
}
GATES = [(name, centered) for name in functional.EXCITATIONS for centered in (False, True)]


def weights(channels: int, *, bias: bool = True, hidden: int = 3) -> dict[str, Tensor | None]:
    """Weights of a block whose hidden layer is partly on and partly off."""
    made = {
        "weight1": torch.randn(hidden, channels, dtype=torch.float64, requires_grad=True),
        "bias1": torch.randn(hidden, dtype=torch.float64, requires_grad=True),
        "weight2": torch.randn(channels, hidden, dtype=torch.float64, requires_grad=True),
        "bias2": torch.randn(channels, dtype=torch.float64, requires_grad=True),
    }
    return made if bias else made | {"bias1": None, "bias2": None}


def gradients(y: Tensor, seed: Tensor, inputs: dict[str, Tensor | None]) -> dict[str, Tensor]:
    named = {name: value for name, value in inputs.items() if value is not None}
    values = torch.autograd.grad(y, list(named.values()), seed, materialize_grads=True)
    return dict(zip(named, values, strict=True))


def assert_equal_with_gradients(
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    inputs: dict[str, Tensor | None],
    *,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Compare output and the gradient of each input of two functions, as exactly as `dtype` is."""
    got, expected = ours(**inputs), theirs(**inputs)
    assert_close(got, expected, name="output")
    seed = torch.randn_like(expected)
    wanted = gradients(expected, seed, inputs)
    for name, gradient in gradients(got, seed, inputs).items():
        assert_close(gradient, wanted[name], dtype=dtype, name=f"gradient of {name}")


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("mode", functional.SQUEEZES)
def test_block_and_gradients(mode: str, shape: tuple[int, ...], bias: bool) -> None:
    inputs = {"x": torch.randn(shape, dtype=torch.float64, requires_grad=True)}
    assert_equal_with_gradients(
        lambda **given: functional.squeeze_excite(**given, squeeze_mode=mode),
        lambda **given: reference.squeeze_excite(**given, mode=mode),
        inputs | weights(shape[1], bias=bias),
    )


@pytest.mark.parametrize(("excitation", "centered"), GATES)
@pytest.mark.parametrize("mode", ["avg", "none"])
def test_block_with_each_gate(mode: str, excitation: str, centered: bool) -> None:
    inputs = {"x": torch.randn(3, 4, 2, 3, dtype=torch.float64, requires_grad=True)}
    gate = {"excitation": excitation, "centered": centered}
    assert_equal_with_gradients(
        lambda **given: functional.squeeze_excite(**given, squeeze_mode=mode, **gate),
        lambda **given: reference.squeeze_excite(**given, mode=mode, **gate),
        inputs | weights(4),
        # torch's derivative of hardsigmoid holds 1/6 in float32
        dtype=torch.float32 if excitation == "hard_sigmoid" else torch.float64,
    )


@pytest.mark.parametrize(("excitation", "centered"), GATES)
def test_gate_over_its_range(excitation: str, centered: bool) -> None:
    z = torch.linspace(-6.3, 6.4, 41, dtype=torch.float64)
    function = reference.GATES[excitation][centered]
    expected = torch.stack([function(value) for value in z])
    assert_close(functional.gate(z, excitation, centered=centered), expected)


@pytest.mark.parametrize("excitation", functional.EXCITATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_centred_gate_is_one_at_zero_and_has_a_slope(excitation: str, dtype: torch.dtype) -> None:
    z = torch.zeros(1000, dtype=dtype, requires_grad=True)  # long enough for vectorised kernels
    s = functional.gate(z, excitation, centered=True)
    assert torch.equal(s, torch.ones_like(s))
    (slope,) = torch.autograd.grad(s.sum(), z)
    assert bool((slope > 0.3).all())


def test_second_derivatives() -> None:
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    given = [x, *weights(3, hidden=2).values()]
    assert torch.autograd.gradgradcheck(functional.squeeze_excite, given)


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"),
    [
        (256, 16, 16),
        (2048, 16, 128),
        (608, 16, 38),  # no rounding to a multiple of 8
        (56, 16, 3),  # down, not to the nearest
        (16, 16, 1),
        (15, 16, 1),  # never none
        (1, 16, 1),
        (1, 1, 1),
        (64, 1, 64),
        (64, 0.5, 128),
        (100, 3, 33),
        (10**6, float("inf"), 1),
    ],
)
def test_hidden_channels(channels: int, reduction: float, hidden: int) -> None:
    got = functional.hidden_channels(channels, reduction)
    assert got == hidden
    assert isinstance(got, int)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("channel", [False, True], ids=["[N, *spatial]", "[N, 1, *spatial]"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_masked_squeeze_and_gradients(shape: tuple[int, ...], channel: bool, mode: str) -> None:
    mask = torch.rand(shape[0], *shape[2:]) > 0.4
    mask[-1] = False  # a sample without any position
    given = mask.unsqueeze(1) if channel else mask
    assert_equal_with_gradients(
        lambda x: functional.squeeze(x, mode, mask=given),
        lambda x: reference.squeeze(x, mode, mask),
        {"x": torch.randn(shape, dtype=torch.float64, requires_grad=True)},
    )


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, 1e30])
def test_padding_counts_for_nothing(mode: str, rubbish: float) -> None:
    x = torch.randn(2, 4, 5, 6)
    padded = torch.full((2, 4, 7, 9), rubbish)
    padded[:, :, :5, :6] = x
    mask = torch.zeros(2, 7, 9)
    mask[:, :5, :6] = 1
    padded.requires_grad_()
    z = functional.squeeze(padded, mode, mask=mask)
    assert_close(z, functional.squeeze(x, mode))
    z.sum().backward()
    assert bool((padded.grad[:, :, 5:] == 0).all())  # type: ignore[index]


def test_nan_in_a_masked_sample_without_space() -> None:
    x = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]])
    z = functional.squeeze(x, mask=torch.tensor([True, False]))
    assert torch.equal(z, torch.tensor([[1.0, 2.0], [0.0, 0.0]]))


def test_one_mask_for_the_whole_batch() -> None:
    x = torch.randn(3, 2, 4)
    mask = torch.tensor([[1, 1, 0, 0]])
    assert_close(functional.squeeze(x, mask=mask), x[..., :2].mean(2))


@pytest.mark.parametrize(
    ("map_shape", "mask_shape"),
    [
        ((2, 3, 4, 5), (2, 4, 4)),
        ((2, 3, 4, 5), (2, 3, 4, 5)),
        ((2, 3, 4, 5), (3, 4, 5)),
        ((2, 3, 4, 5), (4, 5)),
        ((2, 3, 4, 5), (2, 1, 1, 4, 5)),
        # a size that equals the number of channels is checked as well
        ((2, 4, 4, 5), (2, 3, 5)),
        ((4, 4, 4, 5), (3, 4, 5)),
        ((2, 3), (3,)),
    ],
)
def test_a_mask_of_another_shape(map_shape: tuple[int, ...], mask_shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"mask must be \[N, \*spatial\] or .* got \[") as error:
        functional.squeeze(torch.zeros(map_shape), mask=torch.ones(mask_shape))
    assert str(list(map_shape)) in str(error.value)
    assert str(list(mask_shape)) in str(error.value)


@pytest.mark.parametrize("mode", functional.SQUEEZES)
@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_squeeze_is_wide(mode: str, dtype: torch.dtype, wide: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 4).to(dtype)
    z = functional.squeeze(x, mode)
    assert z.dtype == wide
    exact = x.double() if mode == "none" else reference.squeeze(x.double(), mode)
    assert_close(z, exact)


def test_a_large_half_precision_map_does_not_overflow() -> None:
    x = torch.full((1, 1, 512, 512), 1000.0, dtype=torch.float16)
    assert functional.squeeze(x).item() == 1000.0
    mask = torch.ones(1, 512, 512)
    assert functional.squeeze(x, mask=mask).item() == 1000.0


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_weights_stored_as_1x1_convolutions(bias: bool) -> None:
    w = weights(4, bias=bias)
    z = torch.randn(2, 4, dtype=torch.float64)
    stored = {name: v[..., None, None] if "weight" in name else v for name, v in w.items()}  # type: ignore[index]
    assert torch.equal(functional.excite(z, **stored), functional.excite(z, **w))


def test_scale_takes_a_gate_per_channel_or_per_position() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    per_channel = functional.scale(x, torch.tensor([[10.0, 0.5]]))
    assert torch.equal(per_channel, torch.tensor([[[10.0, 20.0], [1.5, 2.0]]]))
    assert torch.equal(functional.scale(x, x), x * x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.squeeze(torch.zeros(3)), InputError, r"got shape \[3\]; add the batch"),
        (
            lambda: functional.squeeze(torch.zeros(1, 2, 3, dtype=torch.int64)),
            InputError,
            r"got torch.int64; convert it with x.float\(\)",
        ),
        (
            lambda: functional.squeeze(torch.zeros(1, 2, 3), "mean"),
            UnknownNameError,
            "unknown squeeze 'mean'",
        ),
        (
            lambda: functional.gate(torch.zeros(1), "hardsigmoid"),
            UnknownNameError,
            "did you mean: hard_sigmoid",
        ),
        (
            lambda: functional.scale(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4)),
            InputError,
            r"a gate must be \[N, C\] = \[2, 3\] .* got \[2, 4\]",
        ),
        (
            lambda: functional.scale(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4)),
            InputError,
            r"got \[2, 3, 4\]",
        ),
        (lambda: functional.hidden_channels(0), ConfigError, "channels must be at least 1, got 0"),
        (lambda: functional.hidden_channels(8, 0), ConfigError, "reduction must be positive"),
        (lambda: functional.hidden_channels(8, -1), ConfigError, "to set the width .* hidden="),
        (lambda: functional.hidden_channels(8, float("nan")), ConfigError, "got nan"),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_batch_norm_se_and_gradients(training: bool) -> None:
    c = 3
    inputs: dict[str, Tensor | None] = {
        "x": torch.randn(3, c, 2, 4, dtype=torch.float64, requires_grad=True),
        "weight": torch.rand(c, dtype=torch.float64, requires_grad=True),
        "bias": torch.randn(c, dtype=torch.float64, requires_grad=True),
    }
    w = weights(c)
    mean, variance = torch.randn(c, dtype=torch.float64), torch.rand(c, dtype=torch.float64)

    def ours(x: Tensor, weight: Tensor, bias: Tensor, **given: Tensor) -> Tensor:
        excitation = lambda z: functional.excite(z, **given)  # noqa: E731
        buffers = (mean.clone(), variance.clone())
        return functional.batch_norm_se(
            x, *buffers, weight, bias, excitation, training=training, eps=1e-3
        )

    def theirs(x: Tensor, weight: Tensor, bias: Tensor, **given: Tensor) -> Tensor:
        used = reference.statistics(x) if training else (mean, variance)
        return reference.squeeze_excite(reference.batch_norm(x, *used, weight, bias, 1e-3), **given)

    assert_equal_with_gradients(ours, theirs, inputs | w)


def test_batch_norm_se_updates_the_running_statistics_once() -> None:
    x = 3 + 2 * torch.randn(4, 2, 3, 3, dtype=torch.float64)
    mean, variance = torch.ones(2, dtype=torch.float64), torch.full((2,), 5.0, dtype=torch.float64)
    functional.batch_norm_se(
        x, mean, variance, None, None, torch.sigmoid, training=True, momentum=0.25
    )
    of_batch, biased = reference.statistics(x)
    assert_close(mean, 0.75 * 1.0 + 0.25 * of_batch)
    assert_close(variance, 0.75 * 5.0 + 0.25 * reference.unbiased(biased, x))


@pytest.mark.parametrize("call", ["squeeze_excite", "batch_norm_se"])
def test_autocast_does_not_reach_squeeze_and_gate(call: str) -> None:
    x = torch.randn(2, 4, 3, 3)
    w = {name: v.detach().float() for name, v in weights(4).items()}  # type: ignore[union-attr]
    seen = []

    def excitation(z: Tensor) -> Tensor:
        s = functional.excite(z, **w)
        seen.append((z.dtype, s.dtype, (z @ z.T).dtype))
        return s

    def run() -> Tensor:
        if call == "squeeze_excite":
            return functional.squeeze_excite(x, **w)
        return functional.batch_norm_se(x, None, None, None, None, excitation, training=True)

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run()
    assert torch.equal(got, expected)
    assert all(dtypes == (torch.float32,) * 3 for dtypes in seen)
