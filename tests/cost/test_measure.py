"""`cost` compares the right two models, counts exactly, and leaves no trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cost.measured import Tiny, image, quick
from restless import Restless, generators, state
from senet.blocks import SEBatchNorm2d, SqueezeExcitation
from senet.cost import QUANTITIES, CostReport, cost
from senet.errors import ConfigError, InputError, InsertionError, NoSitesError
from senet.insertion import SEConfig, insert


def totals(report: CostReport) -> dict[str, tuple[int | None, ...]]:
    return {quantity: report.total.values(quantity) for quantity in QUANTITIES}


# Which two models are compared.


def test_plain_against_inserted() -> None:
    net, x = Tiny(), image()
    changed = copy.deepcopy(net)
    added = insert(changed, x).parameters

    before, after, against = quick(net, x), quick(changed, x), quick(changed, x, against=net)

    assert totals(before) == totals(after) == totals(against)
    assert before.total.difference("parameters") == added
    assert [row.name for row in after.blocks] == ["unit", "other"]
    assert [row.name for row in against.blocks] == ["unit", "other"]


def test_config_chooses_the_blocks() -> None:
    report = quick(Tiny(), image(), config=SEConfig(reduction=4, bias=False))

    assert report.total.difference("parameters") == 2 * 16 * 4


def test_a_network_of_ones_own_against_its_plain_form() -> None:
    net = Tiny()
    own = copy.deepcopy(net)
    own.unit.bn2 = SEBatchNorm2d(16, se={"hidden": 2, "bias": False})

    report = quick(own, image(), against=net)

    assert report.total.difference("parameters") == 2 * 16 * 2
    # two images, each through 16 x 2 and 2 x 16
    assert report.total.difference("macs") == 2 * 2 * 16 * 2
    assert report.stages == ()
    assert [row.name for row in report.blocks] == ["stem", "unit", "drop", "head", "other"]


def test_a_network_with_se_of_its_own_is_reported_alone() -> None:
    net = Tiny()
    net.unit.bn2 = nn.Sequential(nn.BatchNorm2d(16), SqueezeExcitation(16))

    report = quick(net, image())

    assert report.alone
    assert report.total.counts["model"].parameters == sum(p.numel() for p in net.parameters())
    assert report.notes[0].startswith("reported alone: no place for an SE block was found")


def test_an_explicit_config_must_find_a_place() -> None:
    with pytest.raises(NoSitesError):
        quick(nn.Sequential(nn.Linear(3, 3)), torch.ones(2, 3), config=SEConfig())


def test_two_equal_models_have_the_ratio_one() -> None:
    net, x = Tiny(), image()
    report = cost(net, x, against=copy.deepcopy(net), repeats=3)

    for row in (report.total, *report.blocks):
        for quantity in QUANTITIES:
            assert row.ratio(quantity) == 1
            assert row.difference(quantity) == 0
    assert report.latency is not None
    assert report.step is not None


# What networks there are.


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_number_of_spatial_dimensions(dims: int) -> None:
    report = quick(Tiny(dims), image(dims))

    places = 2 * 8**dims
    assert report.total.counts["plain"].macs == places * 3**dims * 16 * (3 + 16 + 16) + 2 * 16 * 5
    assert report.total.difference("macs") == 2 * 2 * 16 * 1
    assert report.notes == ()


def test_half_precision_counts_the_same() -> None:
    net, x = Tiny(), image()
    single = quick(net, x)
    half = quick(copy.deepcopy(net).to(torch.bfloat16), x.to(torch.bfloat16))

    for quantity in ("parameters", "macs"):
        assert half.total.values(quantity) == single.total.values(quantity)
    assert half.conditions.dtype == "bfloat16"
    # vectors of statistics and the SE block's own are float32 all the same
    for quantity in ("bytes_moved_forward", "bytes_kept"):
        for less, more in zip(
            half.total.values(quantity), single.total.values(quantity), strict=True
        ):
            assert less is not None
            assert more is not None
            assert 0.5 <= less / more < 0.6


class Makes(Tiny):
    """Makes a tensor in its forward, on no device in particular."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.ones(x.shape[-1]))


def test_a_model_that_makes_tensors_is_counted_without_running() -> None:
    made, plain = quick(Makes(), image()), quick(Tiny(), image())

    assert made.notes == ()
    moved = made.total.values("bytes_moved_forward")[0]
    before = plain.total.values("bytes_moved_forward")[0]
    assert moved is not None
    assert before is not None
    row, image_bytes = 8 * 4, image().numel() * 4
    assert moved - before == row + (image_bytes + row + image_bytes)  # ones; x + ones


class Reads(Tiny):
    """Decides by a value: it cannot run without values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.flatten()[0].item() < 100 else -x)


def test_a_model_that_needs_values_is_counted_on_a_real_run() -> None:
    real, meta = quick(Reads(), image()), quick(Tiny(), image())

    assert [note.partition(", since")[0] for note in real.notes] == [
        "the forward was counted on a real run",
        "the training step was counted on a real run",
    ]
    assert real.total.values("macs") == meta.total.values("macs")
    assert real.total.values("bytes_kept") == meta.total.values("bytes_kept")


class Detector(Tiny):
    """Wants targets in training mode, as torchvision's detectors do."""

    def forward(self, x: Tensor) -> Any:
        if self.training:
            raise AssertionError("targets should not be none")
        return [{"scores": super().forward(x)}]


def test_a_model_that_refuses_to_train_is_reported_without() -> None:
    report = cost(Detector(), image(), repeats=1, warmup=0)

    reason = "AssertionError: targets should not be none"
    assert report.unavailable == dict.fromkeys(
        ("bytes_moved_step", "bytes_kept", "step_ms"), reason
    )
    assert report.total.values("bytes_kept") == (None, None)
    assert report.total.counts["se"].macs > 0
    assert report.latency is not None
    assert f"training step, ms: {reason}" in str(report).replace("\n  ", " ")


def test_a_frozen_model_has_no_training_step() -> None:
    net = Tiny().requires_grad_(False)

    report = cost(net, image(), against=net, repeats=1, warmup=0)

    assert "unfreeze a parameter" in report.unavailable["step_ms"]
    assert report.to_dict()["timing"]["step_ms"] is None


def test_one_value_per_channel_cannot_train() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())

    report = quick(net, torch.zeros(1, 3, 3, 3))

    assert "Expected more than 1 value per channel" in report.unavailable["bytes_kept"]


# The user's model, and the user's mistakes.


def state_of(model: nn.Module) -> list[Any]:
    return [
        (
            path,
            type(module),
            module.training,
            list(module._forward_hooks),
            list(module._forward_pre_hooks),
            {name: value.tolist() for name, value in module.state_dict().items()},
            {name: id(parameter) for name, parameter in module.named_parameters()},
            [p.grad is None or p.grad.sum().item() for p in module.parameters()],
            sorted(vars(module)),
        )
        for path, module in model.named_modules()
    ]


@pytest.mark.parametrize("kind", ["plain", "inserted", "detector"])
def test_the_model_is_untouched(kind: str) -> None:
    net = Detector() if kind == "detector" else Tiny()
    x = image()
    if kind == "inserted":
        insert(net, x)
        net(x).sum().backward()
    net.unit.eval()
    net.unit.bn1.register_forward_hook(lambda *args: None)
    before, x_before, generator = state_of(net), x.clone(), torch.get_rng_state()
    everywhere = len(nn.modules.module._global_forward_hooks)

    cost(net, x, repeats=1, warmup=0)

    assert state_of(net) == before
    assert torch.equal(x, x_before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert len(nn.modules.module._global_forward_hooks) == everywhere


@pytest.mark.parametrize("fails", [False, True])
def test_counting_and_timing_a_restless_network_change_nothing(fails: bool) -> None:
    net, x = Restless(fails=fails), image()
    net.stem.register_forward_hook(lambda *_: net.history.append(net.stem.eval()))
    before = [state(net), state(x), generators()]
    try:
        cost(net, x, repeats=1, warmup=0)
    except InputError:
        assert fails
    assert [state(net), state(x), generators()] == before


def test_a_lazy_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"of Sequential must have their shapes.*run it once on"):
        quick(nn.Sequential(nn.LazyConv2d(3, 3)), image())


def test_the_mode_of_the_caller_changes_nothing() -> None:
    net, x = Tiny(), image()
    expected = totals(quick(net, x))

    with torch.no_grad():
        assert totals(quick(net, x)) == expected
    with torch.inference_mode():
        assert totals(quick(net, x)) == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert totals(quick(Reads(), x))["bytes_kept"] == expected["bytes_kept"]


def test_what_the_input_must_be() -> None:
    message = r"must run on the example input.*give an input as in"
    with pytest.raises(InputError, match=message):
        quick(Tiny(), torch.zeros(2, 7, 8, 8))
    with pytest.raises(InputError, match=message):
        quick(Tiny(), torch.zeros(2, 7, 8, 8), against=Tiny())


def test_what_the_options_must_be() -> None:
    net, x = Tiny(), image()
    with pytest.raises(
        ConfigError, match=r"repeats must be at least 1 .* got 0 and 2; .* timing=F"
    ):
        cost(net, x, repeats=0)
    with pytest.raises(ConfigError, match="warmup at least 0, got 15 and -1"):
        cost(net, x, warmup=-1)
    with pytest.raises(ConfigError, match="but against is given"):
        cost(net, x, config=SEConfig(), against=net)
    insert(net, x)
    with pytest.raises(ConfigError, match=r"inserted SE blocks; call senet\.remove\(model\) first"):
        cost(net, x, config=SEConfig())


def test_what_the_model_must_be() -> None:
    with pytest.raises(InputError, match=r"torch\.nn\.Module, got str; .* senet\.create_model"):
        quick("resnet50", image())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"torch\.nn\.Module, got str"):
        quick(Tiny(), image(), against="resnet50")
    with pytest.raises(InsertionError, match="before a model is compiled"):
        quick(torch.compile(Tiny()), image())


def test_repeats_are_as_asked() -> None:
    report = cost(Tiny(), image(), repeats=2, warmup=0)

    assert report.latency is not None
    assert report.step is not None
    for timing in (report.latency, report.step):
        assert {label: len(times) for label, times in timing.samples.items()} == {
            "plain": 2,
            "se": 2,
        }
    assert report.conditions.device == "cpu"
