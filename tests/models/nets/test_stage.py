"""Checkpointed stages compute what plain ones do; parameters are grouped by depth."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from timm.models import group_parameters
from torch import nn
from torch.testing import assert_close

from models.counted import on_meta
from senet.errors import ConfigError
from senet.models import Classifier, create_model


def trained(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    out = model.train()(x)
    out.square().sum().backward()
    values = {"out": out.detach()} | {name: p.grad for name, p in model.named_parameters()}
    return values | dict(model.named_buffers())


@pytest.mark.parametrize("name", ["se_resnet18", "se_resnet20", "se_shufflenet_v1_g3"])
def test_checkpointing_changes_nothing_but_memory(name: str) -> None:
    plain = create_model(name, num_classes=3).double()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    runs: list[str] = []
    stage = next(m for m in saving.children() if type(m).__name__ == "Stage")
    stage[0].register_forward_pre_hook(lambda *_: runs.append("forward"))

    expected, computed = trained(plain, x), trained(saving, x)

    assert runs == ["forward", "forward"]  # the second one in the backward
    assert_close(computed, expected)  # running statistics and their counters as well
    saving.set_grad_checkpointing(enable=False)
    trained(saving, x)
    assert len(runs) == 3


def test_nothing_is_repeated_without_gradients() -> None:
    model = create_model("resnet20")
    model.set_grad_checkpointing(True)

    with torch.no_grad():
        expected = model.eval()(torch.ones(1, 3, 32, 32))

    model.set_grad_checkpointing(False)
    assert torch.equal(expected.detach(), model(torch.ones(1, 3, 32, 32)))


def test_norms_are_as_before_after_the_backward() -> None:
    model = create_model("resnet20", num_classes=3)
    model.set_grad_checkpointing()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    counters = [norm.num_batches_tracked for norm in norms]

    trained(model, torch.randn(2, 3, 32, 32))

    assert {norm.momentum for norm in norms} == {0.1}
    assert all(a is norm.num_batches_tracked for a, norm in zip(counters, norms, strict=True))
    assert {counter.item() for counter in counters} == {1}


def test_network_without_stages_refuses() -> None:
    with pytest.raises(ConfigError, match="needs stages of blocks, and BNInception has none"):
        on_meta("bn_inception").set_grad_checkpointing()


def groups(model: Any, *, coarse: bool) -> list[list[str]]:
    grouped = group_parameters(model, model.group_matcher(coarse=coarse))
    return [grouped[key] for key in sorted(grouped)]


@pytest.mark.parametrize(
    ("name", "stages", "blocks"),
    [
        ("se_resnet18", 4, 8),
        ("se_resnet20", 3, 9),
        ("se_bn_inception", 10, 10),
        ("shufflenet_v1_g3", 3, 16),
        ("se_wrn16_8", 4, 7),  # the last norm is a block of its own
    ],
)
def test_parameters_are_grouped_from_the_stem_to_the_head(
    name: str, stages: int, blocks: int
) -> None:
    model: Any = on_meta(name)

    for coarse, count in ((True, stages), (False, blocks)):
        grouped = groups(model, coarse=coarse)

        assert len(grouped) == 1 + count + 1
        assert all(path.split(".")[0] in model._stem for path in grouped[0])
        assert {path.rpartition(".")[0] for path in grouped[-1]} == {model._last}
        assert list(itertools.chain(*grouped)) == [
            name for name, _ in model.named_parameters()
        ]  # in order


def test_head_sees_the_last_map() -> None:
    model = on_meta("se_resnet50")

    assert isinstance(model, Classifier)
    assert model.head_hidden_size == model.num_features == 2048
