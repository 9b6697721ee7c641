"""How modules carry blocks: one on each side of a module, and in a network that moves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import families
import properties
import pytest
import torch
from torch import nn

import senet
from senet import SEConfig, Site
from senet.errors import InsertionError
from senet.insertion.graft import grafts
from senet.insertion.surgery import attach

EXAMPLE = torch.randn(2, 3, 32, 32)


def site(path: str, where: str, channels: int) -> Site:
    return Site(path, where, "map", "plain", "", channels, 1, (8, 8), 0, 0, 0)


@pytest.fixture
def norm() -> nn.Module:
    """A network of one batch norm, which carries a block on each side."""
    model = nn.Sequential(nn.BatchNorm2d(8))
    attach(model, [site("0", "output", 8), site("0", "input", 8)], SEConfig())
    return model


def test_a_module_carries_a_block_on_each_side(norm: nn.Module) -> None:
    x = torch.randn(2, 8, 5, 5)
    carrier = norm[0]
    carrier.se_in.gate.register_forward_hook(lambda *call: torch.full_like(call[2], 2.0))
    carrier.se.gate.register_forward_hook(lambda *call: torch.full_like(call[2], 3.0))

    assert list(senet.se_modules(norm)) == ["0.se", "0.se_in"]
    torch.testing.assert_close(norm.eval()(x), 3.0 * nn.BatchNorm2d(8).eval()(2.0 * x))


def test_both_are_copied_and_taken_away(norm: nn.Module) -> None:
    plain = properties.anatomy(nn.Sequential(nn.BatchNorm2d(8)))
    copied = copy.deepcopy(norm)

    assert [s.where for s in senet.remove(copied)] == ["output", "input"]
    assert properties.anatomy(copied) == plain
    assert len(grafts(norm)) == 2


def test_one_side_carries_one_block() -> None:
    model = nn.Sequential(nn.ReLU())
    plain = properties.anatomy(model)
    twice = [site("0", "output", 8), site("0", "output", 8)]
    with pytest.raises(InsertionError, match="the module '0' must have se or se_out free"):
        attach(model, twice, SEConfig())
    assert properties.anatomy(model) == plain


@pytest.mark.parametrize("integration", ["standard", "identity"])
def test_a_changed_network_inside_a_larger_one_is_saved(integration: str, tmp_path: Path) -> None:
    config = senet.SEConfig(integration=integration)
    backbone = families.build("torchvision/resnet18").eval()
    before = [site.path for site in senet.insert(backbone, EXAMPLE, config).sites]
    for block in senet.se_modules(backbone).values():
        nn.init.normal_(block.fc2.weight)
    whole = nn.Sequential(backbone, nn.Softmax(1)).eval()
    assert sorted(graft.site.path for graft in grafts(whole)) == sorted(f"0.{p}" for p in before)

    senet.save(whole, tmp_path)
    fresh = nn.Sequential(families.build("torchvision/resnet18"), nn.Softmax(1)).eval()
    senet.load(fresh, tmp_path)

    assert torch.equal(fresh(EXAMPLE), whole(EXAMPLE))


def test_a_part_of_a_changed_network_knows_its_sites() -> None:
    model = families.build("torchvision/resnet18")
    senet.insert(model, EXAMPLE, senet.SEConfig(integration="identity"))
    part = model.get_submodule("layer1")
    assert [(g.site.path, g.site.block) for g in grafts(part)] == [("0.bn2", "0"), ("1.bn2", "1")]


def synchronised(model: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def extractor(model: nn.Module) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(model, ["layer2", "layer4"])


@pytest.mark.parametrize("change", [synchronised, extractor])
def test_what_must_come_first_can_come_first(change: Callable[[nn.Module], nn.Module]) -> None:
    model = change(families.build("torchvision/resnet18")).eval()
    base = copy.deepcopy(model)
    assert len(senet.insert(model, EXAMPLE).sites) == 8
    properties.exact(base, model, EXAMPLE, modes="evaluation")
