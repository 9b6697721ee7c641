"""The SE block as a module: its options, dtypes, layouts, and the ways it is carried around."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reference
from senet import SqueezeExcitation
from senet.blocks import Gate
from senet.blocks.squeeze_excitation import SQUEEZES
from senet.errors import ConfigError, InputError, UnknownNameError
from senet.functional import EXCITATIONS
from tolerances import assert_close

SPATIAL = [(), (5,), (3, 4), (2, 3, 2), (2, 1, 2, 2)]
HALF = [torch.float16, torch.bfloat16]


def trained(channels: int, **options: Any) -> SqueezeExcitation:
    """A block whose parameters are all away from where they start."""
    block = SqueezeExcitation(channels, **options)
    with torch.no_grad():
        for parameter in block.parameters():
            nn.init.normal_(parameter)
    return block


def arguments(block: SqueezeExcitation) -> list[Tensor | None]:
    """Its parameters as the reference takes them."""
    layers = (block.fc1, block.fc2)
    return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]


def squeezed_by(block: SqueezeExcitation) -> dict[str, Any]:
    """What its z is, as the reference takes it."""
    if block.squeeze == "constant":
        return {"descriptor": block.descriptor.double()}
    return {"mode": block.squeeze}


def gate_of(block: SqueezeExcitation) -> list[Tensor]:
    """A list that gets the gate of every forward pass."""
    seen: list[Tensor] = []
    block.gate.register_forward_hook(lambda module, args, output: seen.append(output))
    return seen


@pytest.mark.parametrize("spatial", SPATIAL, ids=lambda spatial: f"{len(spatial)}d")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_values_and_gradients(squeeze: str, bias: bool, spatial: tuple[int, ...]) -> None:
    block = trained(6, hidden=3, squeeze=squeeze, bias=bias, dtype=torch.float64)
    x = torch.randn(2, 6, *spatial, dtype=torch.float64, requires_grad=True)
    expected = reference.squeeze_excite(x, *arguments(block), **squeezed_by(block))
    got = block(x)
    assert got.dtype == torch.float64
    assert_close(got, expected, name="output")
    seed = torch.randn_like(expected)
    named = {"x": x, **dict(block.named_parameters())}
    ours = torch.autograd.grad(got, list(named.values()), seed)
    theirs = torch.autograd.grad(expected, list(named.values()), seed)
    for name, a, b in zip(named, ours, theirs, strict=True):
        assert_close(a, b, name=f"gradient of {name}")


@pytest.mark.parametrize("centered", [False, True], ids=["paper", "centred"])
@pytest.mark.parametrize("excitation", EXCITATIONS)
def test_gates(excitation: str, centered: bool) -> None:
    options = {"excitation": excitation, "centered": centered}
    block = trained(8, hidden=4, **options)
    x = torch.randn(3, 8, 4, 4)
    wide = [None if a is None else a.double() for a in arguments(block)]
    assert_close(block(x), reference.squeeze_excite(x.double(), *wide, **options))


@pytest.mark.parametrize(
    ("channels", "options", "hidden"),
    [
        (256, {}, 16),
        (64, {"reduction": 4}, 16),
        (8, {}, 1),
        (1, {}, 1),
        (1, {"squeeze": "none"}, 1),
        (24, {"reduction": 16}, 1),
        (16, {"hidden": 5}, 5),
        (4, {"hidden": 9}, 9),
    ],
)
def test_hidden_width(channels: int, options: dict[str, Any], hidden: int) -> None:
    block = SqueezeExcitation(channels, **options)
    assert block.hidden == hidden
    assert block.fc1.weight.shape == (hidden, channels)
    assert block.fc2.weight.shape == (channels, hidden)
    assert block(torch.randn(2, channels, 3, 3)).shape == (2, channels, 3, 3)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("spatial", SPATIAL[1:], ids=lambda spatial: f"{len(spatial)}d")
def test_a_masked_block_sees_the_cropped_map(spatial: tuple[int, ...], mode: str) -> None:
    block = trained(4, squeeze=mode)
    x = torch.randn(2, 4, *spatial)
    padded = torch.full((2, 4, *(n + 2 for n in spatial)), torch.nan)
    inside = (..., *(slice(n) for n in spatial))
    padded[inside] = x
    mask = torch.zeros(padded.shape[0], *padded.shape[2:], dtype=torch.bool)
    mask[inside] = True
    for given in (mask, mask.unsqueeze(1)):
        assert_close(block(padded, given)[inside], block(x))


def test_a_fully_masked_sample_has_the_gate_of_zero() -> None:
    block = trained(4)
    seen = gate_of(block)
    x = torch.randn(2, 4, 3, 3)
    mask = torch.stack([torch.ones(3, 3), torch.zeros(3, 3)])
    block(x, mask)
    assert_close(seen[0][1], block.excite(torch.zeros(1, 4))[0])


@pytest.mark.parametrize(
    ("shape", "got"),
    [((2, 5, 3, 3), r"\[2, 5, 3, 3\]"), ((4, 3, 3), r"\[4, 3, 3\]"), ((4,), r"\[4\]")],
)
def test_a_map_of_another_shape(shape: tuple[int, ...], got: str) -> None:
    with pytest.raises(
        InputError, match=rf"this SE block needs \[N, 4, \*spatial\], got shape {got}"
    ):
        SqueezeExcitation(4)(torch.randn(shape))


def test_a_mask_of_another_shape() -> None:
    with pytest.raises(InputError, match=r"mask must be .* got \[2, 3\]"):
        SqueezeExcitation(4)(torch.randn(2, 4, 3, 3), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channels": 0}, ConfigError, "channels must be at least 1, got 0"),
        ({"channels": 0, "hidden": 4}, ConfigError, "channels must be at least 1, got 0"),
        ({"channels": 8, "reduction": 0}, ConfigError, "reduction must be positive, got 0"),
        ({"channels": 8, "hidden": 0}, ConfigError, r"hidden must be at least 1, got 0; leave"),
        ({"channels": 8, "squeeze": "average"}, UnknownNameError, "did you mean: avg"),
        ({"channels": 8, "excitation": "sigmoide"}, UnknownNameError, "did you mean: sigmoid"),
    ],
)
def test_options_that_cannot_be(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SqueezeExcitation(**options)


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("dtype", HALF)
def test_a_block_in_half_precision_gates_in_float32(dtype: torch.dtype, squeeze: str) -> None:
    block = trained(8, hidden=4, squeeze=squeeze).to(dtype)
    seen = gate_of(block)
    x = torch.randn(2, 8, 4, 4).to(dtype)
    y = block(x)
    assert (y.dtype, seen[0].dtype) == (dtype, torch.float32)
    wide = [None if a is None else a.double() for a in arguments(block)]
    assert_close(y, reference.squeeze_excite(x.double(), *wide, **squeezed_by(block)))


@pytest.mark.parametrize("dtype", HALF)
def test_a_float32_block_keeps_the_type_of_a_half_precision_map(dtype: torch.dtype) -> None:
    block = trained(8)
    y = block(torch.randn(2, 8, 4, 4).to(dtype))
    assert y.dtype == dtype


def test_a_large_half_precision_map_does_not_overflow() -> None:
    block = SqueezeExcitation(2, centered=True).half()
    x = torch.full((1, 2, 512, 512), 1000.0, dtype=torch.float16)
    assert torch.equal(block(x), x)
    nn.init.constant_(block.fc1.weight, 1.0)
    nn.init.constant_(block.fc2.weight, -1.0)
    assert bool((block(x) == 0).all())  # 2 sigmoid(-2000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_the_gate(dtype: torch.dtype) -> None:
    block = trained(8, hidden=4)
    seen = gate_of(block)
    x = torch.randn(2, 8, 4, 4).to(dtype)
    expected = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = block(x)
    assert [s.dtype for s in seen] == [torch.float32, torch.float32]
    assert got.dtype == dtype
    assert torch.equal(got, expected)


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((2, 8, 4, 5), torch.channels_last),
        ((2, 8, 2, 3, 4), torch.channels_last_3d),
        ((2, 8, 4, 5), torch.contiguous_format),
    ],
)
def test_memory_format_is_kept(shape: tuple[int, ...], layout: Any, squeeze: str) -> None:
    block = trained(8, squeeze=squeeze)
    x = torch.randn(shape).to(memory_format=layout)
    y = block(x)
    assert y.is_contiguous(memory_format=layout)
    assert_close(y, block(x.contiguous()))


@pytest.mark.parametrize("excitation", EXCITATIONS)
@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_a_centred_block_starts_as_the_identity_and_learns(squeeze: str, excitation: str) -> None:
    block = SqueezeExcitation(32, squeeze=squeeze, excitation=excitation, centered=True)
    x = torch.randn(4, 32, 5, 5)
    y = block(x)
    assert torch.equal(y, x)
    (y * torch.randn_like(y)).sum().backward()
    assert bool((block.fc2.weight.grad.abs().sum() > 0).all())  # type: ignore[union-attr]
    assert bool((block.fc2.bias.grad != 0).all())  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(20))
def test_a_constant_reaches_every_hidden_unit(seed: int) -> None:
    torch.manual_seed(seed)
    block = SqueezeExcitation(16, hidden=2, squeeze="constant", bias=False, centered=True)
    assert bool((block.fc1(block.descriptor[None]) > 0).all())


def test_a_constant_gate_is_that_of_every_image() -> None:
    block = trained(8, squeeze="constant")
    seen = gate_of(block)
    block(torch.randn(3, 8, 5, 5))
    assert seen[0].shape == (3, 8)
    assert torch.equal(seen[0], block.constant_gate().expand(3, -1))


def test_both_layers_of_a_centred_block_move_by_the_second_step() -> None:
    block = SqueezeExcitation(32, centered=True)
    start = copy.deepcopy(block.state_dict())
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    x = torch.randn(8, 32, 5, 5)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) * x.roll(1, 1)).mean().backward()
        optimizer.step()
        now = block.state_dict()
        moved.append({name for name in now if not torch.equal(now[name], start[name])})
    assert moved[0] == {"fc2.weight", "fc2.bias"}
    assert moved[1] == set(start)


def test_the_papers_gate_starts_near_one_half() -> None:
    block = SqueezeExcitation(64)
    seen = gate_of(block)
    block(torch.rand(16, 64, 4, 4))
    assert abs(seen[0].mean().item() - 0.5) < 0.1
    assert not block.centered
    assert all(bool((layer.bias == 0).all()) for layer in (block.fc1, block.fc2))


def test_reset_parameters_starts_again() -> None:
    block = trained(8, centered=True)
    block.reset_parameters()
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_device_arguments(dtype: torch.dtype) -> None:
    block = SqueezeExcitation(8, device="meta", dtype=dtype)
    assert {(p.device.type, p.dtype) for p in block.parameters()} == {("meta", dtype)}
    y = block(torch.empty(2, 8, 3, 3, device="meta", dtype=dtype))
    assert (y.device.type, y.dtype, y.shape) == ("meta", dtype, (2, 8, 3, 3))


def test_the_gate_can_be_replaced() -> None:
    class Half(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.full_like(z, 0.5)

    block = trained(8)
    block.gate = Half()
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(block(x), 0.5 * x)
    assert not block.centered


def test_a_hook_on_the_gate_sees_the_excitation() -> None:
    block = trained(8)
    seen = gate_of(block)
    x = torch.rand(2, 8, 3, 3) + 1
    y = block(x)
    assert seen[0].shape == (2, 8)
    assert_close(y, x * seen[0][..., None, None])


@pytest.mark.parametrize(
    "options", [{}, {"centered": True, "squeeze": "max", "bias": False}, {"squeeze": "constant"}]
)
def test_copies_compute_the_same(options: dict[str, Any]) -> None:
    block = trained(8, **options)
    fresh = SqueezeExcitation(8, **options)
    buffer = io.BytesIO()
    torch.save(block.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(2, 8, 3, 3)
    unpickled = pickle.loads(pickle.dumps(block))  # noqa: S301 - our own bytes
    for other in (copy.deepcopy(block), unpickled, fresh):
        assert torch.equal(other(x), block(x))
        assert other.fc1.weight is not block.fc1.weight


def test_what_repr_shows() -> None:
    shown = repr(SqueezeExcitation(64, squeeze="max", excitation="tanh", centered=True))
    assert shown.startswith("SqueezeExcitation(\n  64, hidden=4, squeeze=max")
    assert "(gate): Gate(tanh, centered)" in shown
    assert repr(Gate("relu")) == "Gate(relu)"


# The gate knows nothing of the squeeze: both of it with one, and each squeeze with one of it.
@pytest.mark.parametrize(
    ("squeeze", "centered"), [("avg", True), *((squeeze, False) for squeeze in SQUEEZES)]
)
def test_compiles_without_a_break(squeeze: str, centered: bool) -> None:
    torch.compiler.reset()
    block = trained(8, squeeze=squeeze, centered=centered)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(compiled(x), block(x))
    mask = torch.rand(2, 4, 4) > 0.5
    assert torch.equal(compiled(x, mask), block(x, mask))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compiled(x), block(x))
