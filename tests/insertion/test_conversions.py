"""Conversions that put other modules in the place of those with blocks: the blocks go along."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from changes import (
    EXAMPLE,
    Change,
    by_lightning,
    by_the_class,
    by_timm,
    by_torch,
    closure_on_norms,
    inserted,
    output,
    wrappers_on_all,
)
from torch import nn

import senet
from senet.errors import ConfigError, InsertionError

CONFIGS: list[dict[str, Any]] = [{}, {"integration": "inner"}, {"integration": "identity"}]
CONVERSIONS = [
    ("torchvision/resnet18", by_torch),
    ("torchvision/resnet18", by_timm),
    ("torchvision/resnet18", by_lightning),
    ("torchvision/mobilenet_v2", by_torch),
    ("timm/efficientnet_b0", by_timm),  # its norms have an activation, which torch's would drop
]


@pytest.mark.parametrize(("network", "convert"), CONVERSIONS)
@pytest.mark.parametrize("options", CONFIGS, ids=str)
def test_a_conversion_to_sync_batch_norm_keeps_the_blocks(
    network: str, options: dict[str, Any], convert: Callable[[nn.Module], nn.Module]
) -> None:
    model = inserted(network, existing="add", **options)
    paths, keys, expected = list(senet.se_modules(model)), list(model.state_dict()), output(model)
    bare = copy.deepcopy(model)
    senet.remove(bare)

    model = convert(model)

    torch.testing.assert_close(output(model), expected)
    assert not torch.allclose(output(model), output(bare), atol=0)
    assert list(senet.se_modules(model)) == paths
    assert sorted(model.state_dict()) == sorted(keys)
    senet.remove(model)
    assert not any("senet" in type(module).__module__ for module in model.modules())
    torch.testing.assert_close(output(model), output(bare))


def test_after_a_conversion_the_first_call_may_be_compiled_or_saved(tmp_path: Path) -> None:
    model = inserted()
    expected = output(model)
    converted = by_torch(copy.deepcopy(model))
    senet.save(converted, tmp_path)
    fresh = families.build("torchvision/resnet18").eval()
    senet.load(fresh, tmp_path)
    torch.testing.assert_close(output(fresh), expected)

    torch._dynamo.reset()
    compiled = torch.compile(by_torch(copy.deepcopy(model)), backend="eager")
    torch.testing.assert_close(output(compiled), expected)  # type: ignore[arg-type]
    ours = senet.convert_sync_batchnorm(model)
    whole = torch.compile(ours, backend="eager", fullgraph=True)
    torch.testing.assert_close(output(whole), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("integration", ["standard", "identity", "pre", "post"])
@pytest.mark.parametrize("change", [wrappers_on_all, closure_on_norms, by_the_class])
def test_a_forward_on_the_object_is_what_the_block_stands_behind(
    change: Change, integration: str
) -> None:
    torch.manual_seed(0)
    model = families.build("torchvision/resnet18").eval()
    change(model)
    before, forwards = output(model), [vars(m).get("forward") for m in model.modules()]
    bare = copy.deepcopy(model.state_dict())

    report = senet.insert(model, EXAMPLE, senet.SEConfig(integration=integration))

    assert torch.equal(output(model), before)
    for block in senet.se_modules(model).values():
        nn.init.normal_(block.fc2.bias)
    assert not torch.allclose(output(model), before)
    model(EXAMPLE).square().sum().backward()
    assert all(p.grad is not None for p in senet.se_parameters(model).se)
    assert len(senet.remove(model)) == len(report.sites)
    assert [vars(m).get("forward") for m in model.modules()] == forwards
    assert list(model.state_dict()) == list(bare)
    assert torch.equal(output(model), before)


def test_a_wrapper_that_is_taken_off_after_insertion() -> None:
    """What it then puts back is the forward of the class that the module had before."""
    torch.manual_seed(0)
    model = families.build("torchvision/resnet18").eval()
    wrappers_on_all(model)
    senet.insert(model, EXAMPLE)
    for block in senet.se_modules(model).values():
        nn.init.normal_(block.fc2.bias)
    expected = output(model)
    for module in model.modules():
        if hasattr(module, "_old_forward"):
            module.forward = module._old_forward
            del module._old_forward
    torch.testing.assert_close(output(model), expected)
    torch.testing.assert_close(output(copy.deepcopy(model)), expected)


@pytest.mark.parametrize("part", ["", "layer1"])
def test_remove_right_after_a_conversion(part: str) -> None:
    model = inserted()
    bare = copy.deepcopy(model)
    senet.remove(bare.get_submodule(part))
    blocks = len(senet.se_modules(model.get_submodule(part)))

    model = by_torch(model)
    assert len(senet.remove(model.get_submodule(part))) == blocks

    assert sorted(model.state_dict()) == sorted(bare.state_dict())
    torch.testing.assert_close(output(model), output(bare))
    assert list(senet.se_modules(model)) == list(senet.se_modules(bare))


def test_after_a_conversion_the_blocks_are_known_to_all(tmp_path: Path) -> None:
    model = inserted()
    senet.save(model, tmp_path)
    with pytest.raises(InsertionError, match=r"has 8 .*call senet\.remove"):
        senet.insert(by_torch(copy.deepcopy(model)), EXAMPLE)
    with pytest.raises(InsertionError, match=r"call senet\.remove"):
        senet.load(by_torch(copy.deepcopy(model)), tmp_path)
    with pytest.raises(ConfigError, match="it has inserted SE blocks"):
        senet.cost(by_torch(copy.deepcopy(model)), EXAMPLE, config=senet.SEConfig(), timing=False)
    groups = senet.se_parameters(by_torch(copy.deepcopy(model)))
    assert [len(group) for group in groups] == [len(g) for g in senet.se_parameters(model)]


@pytest.mark.parametrize("path", ["layer1.0", "layer1.0.bn2", "layer1.0.relu", "layer1", ""])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("integration", ["standard", "identity", "post", "inner_act"])
def test_a_forward_that_was_set_after_insertion_works_after_removal(
    integration: str, path: str, *, first: bool
) -> None:
    """It leads to the method of the class that the module had with its block."""
    torch.manual_seed(0)
    model = families.build("torchvision/resnet18").eval()
    calls: list[str] = []

    def count(name: str) -> None:
        module = model.get_submodule(path)
        old = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return old(*args, **kwargs)

        module.forward = forward

    expected = output(model)
    if first:
        count("before")
    senet.insert(model, EXAMPLE, senet.SEConfig(integration=integration))
    count("after")
    senet.remove(model)
    torch.testing.assert_close(output(model), expected)
    assert set(calls) == {"after", *(["before"] if first else [])}


def test_a_method_that_was_kept_works_after_removal() -> None:
    """Of a batch norm in front of a block, as of the activation behind it."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).eval()
    expected = output(model)
    senet.insert(model, EXAMPLE)
    kept = model.forward
    senet.remove(model)
    torch.testing.assert_close(kept(EXAMPLE), expected)
