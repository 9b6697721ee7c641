"""Two routes to one network: SE where the builder wrote it, and where `senet.insert` finds it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import senet
from models.counted import on_meta, shared
from senet.models import NETWORKS, Classifier
from senet.models.nets.shufflenet import ShuffleNet

# Of each kind of network a small one: the same builder, fewer blocks.
SMALL: dict[str, dict[str, Any]] = {
    "resnet20": {},
    "resnet110": {"depth": 14},
    "preact_resnet164": {"depth": 20},
    "wrn16_8": {"depth": 10, "width": 4},
    "shake_shake26_2x96d": {"depth": 14, "base": 24},
    "shake_even29_2x4x64d": {"depth": 20, "base": 16},
    "resnet18": {},
    "resnet34": {"depths": (1, 2, 2, 1)},
    "resnet50": {"depths": (1, 2, 1, 1)},
    "resnext50_32x4d": {"depths": (1, 2, 1, 1)},
    "senet154_plain": {"depths": (1, 2, 1, 1)},
    "bn_inception": {},
}
PAPER = senet.SEConfig(init="paper")
# Whole networks, without values: one of each kind and the deepest.
WHOLE = [name for name in SMALL if name not in ("resnet110", "resnet34")] + ["resnet152"]


def pixels(name: str) -> int:
    """Return the height and width of a small image for a network."""
    return min(64, NETWORKS[name].family.input_size[1])


def small(name: str, **options: Any) -> nn.Module:
    build = NETWORKS[name].family.build
    made = build.keywords if isinstance(build, partial) else {}
    kind = build.func if isinstance(build, partial) else build
    return kind(**{**made, **SMALL[name], **options})


def run(model: nn.Module, x: torch.Tensor, *, training: bool) -> tuple[torch.Tensor, ...]:
    """Return output, gradient of the image, and the state behind it."""
    torch.manual_seed(1)  # of dropout and of shake-shake
    x = x.clone().requires_grad_()
    out = model.train(training)(x)
    out.square().sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad, *model.state_dict().values()


@pytest.mark.parametrize("name", SMALL)
def test_written_and_inserted_compute_the_same(name: str) -> None:
    blocks = {"reduction": 16, **PAPER.block_options()}
    written = small(name, se=blocks, num_classes=10)
    inserted = small(name, se=None, num_classes=10)
    size = pixels(name)
    senet.insert(inserted, torch.zeros(1, 3, size, size), PAPER)
    inserted.load_state_dict(written.state_dict())  # every key, and no other
    x = torch.randn(2, 3, size, size)

    for training in (False, True):
        ours = run(written, x, training=training)
        theirs = run(inserted, x, training=training)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), training


@pytest.mark.parametrize("name", WHOLE)
def test_written_and_inserted_have_the_same_keys(name: str) -> None:
    family = NETWORKS[name].family
    with_se = next(n for n, w in NETWORKS.items() if w.plain == name and w.se == family.se)
    written, inserted = shared(with_se), on_meta(name)
    size = pixels(name)
    report = senet.insert(inserted, torch.zeros(1, 3, size, size, device="meta"), PAPER)

    shapes = [(key, value.shape) for key, value in written.state_dict().items()]
    assert [(key, value.shape) for key, value in inserted.state_dict().items()] == shapes
    assert list(senet.se_modules(written)) == list(senet.se_modules(inserted))
    assert not report.skipped
    assert not report.existing


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "bn_inception", "wrn16_8"])
def test_the_blocks_of_a_written_network_are_found(name: str) -> None:
    size = pixels(name)
    model = shared(f"se_{name}")

    plan = senet.find_sites(model, torch.zeros(1, 3, size, size, device="meta"))

    assert not plan.sites
    assert set(plan.existing) == set(senet.se_modules(model))


def test_every_builder_that_places_its_blocks_is_compared() -> None:
    def kind(name: str) -> Any:
        build = NETWORKS[name].family.build
        return build.func if isinstance(build, partial) else build

    kinds = {kind(name) for name, network in NETWORKS.items() if network.family.written}
    compared = {kind(name) for name in SMALL}
    # ShuffleNet has a file of its own
    assert compared == {k for k in kinds if issubclass(k, Classifier)} - {ShuffleNet}


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("se_resnet50_nosqueeze", "layer1.0.bn3.se"),
        ("se_resnet50_pre", "layer1.0.conv1.se_in"),
        ("se_resnet50_post", "layer1.0.se"),
        ("se_resnet50_identity", "layer1.0.downsample.1.se"),
        ("se_resnet50_3x3", "layer1.0.bn2.se"),
    ],
)
def test_where_the_variants_have_their_blocks(name: str, first: str) -> None:
    model = shared(name)
    blocks = senet.se_modules(model)

    assert len(blocks) == 16
    assert first in blocks
    squeeze = "none" if "nosqueeze" in name else "avg"
    assert all(se.squeeze == squeeze and not se.centered for se in blocks.values())
    # every key of the plain network is there
    assert set(shared("resnet50").state_dict()) < set(model.state_dict())
