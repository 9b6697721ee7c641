"""A block that is there is run, or the next call says that it is not."""

from __future__ import annotations

import copy
import functools
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import families
import pytest
import timm
import torch
import torchvision
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import senet
from senet.errors import InsertionError
from senet.insertion import guard

EXAMPLE = torch.randn(2, 3, 64, 64)
Change = Callable[[nn.Module], Any]


def inserted(name: str = "torchvision/resnet18", **options: Any) -> nn.Module:
    """A network with blocks that have an effect."""
    torch.manual_seed(0)
    model = families.build(name).eval()
    senet.insert(model, EXAMPLE, senet.SEConfig(**options))
    for block in senet.se_modules(model).values():
        nn.init.normal_(block.fc2.bias)
    return model


def output(model: nn.Module) -> Tensor:
    with torch.no_grad(), senet.use_backend("reference"):
        return model(EXAMPLE)  # type: ignore[no-any-return]


def at(model: nn.Module, path: str) -> Any:
    return model.get_submodule(path)


# what carries the blocks along ---------------------------------------------------------------


def by_torch(model: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def by_timm(model: nn.Module) -> nn.Module:
    return timm.layers.convert_sync_batchnorm(model)  # type: ignore[no-any-return]


def by_lightning(model: nn.Module) -> nn.Module:
    return TorchSyncBatchNorm().apply(model)


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


# what loses blocks --------------------------------------------------------------------------


def frozen(model: nn.Module) -> None:
    freeze_batch_norm_2d(model)


def frozen_by_hand(model: nn.Module) -> None:
    at(model, "layer1.0").bn2 = torchvision.ops.FrozenBatchNorm2d(64)


def fused(model: nn.Module) -> None:
    block = at(model, "layer1.0")
    block.conv2 = fuse_conv_bn_eval(block.conv2, block.bn2)
    block.bn2 = nn.Identity()


def fused_in_the_dictionary(model: nn.Module) -> None:
    block = at(model, "layer1.0")
    block._modules["conv2"] = fuse_conv_bn_eval(block.conv2, block.bn2)
    block._modules["bn2"] = nn.Identity()


def fused_and_shadowed(model: nn.Module) -> None:
    """The norm goes, and a method that does without is set in the place of the forward."""
    block = at(model, "layer1.0")
    block.conv2 = fuse_conv_bn_eval(block.conv2, block.bn2)
    del block.bn2
    block.forward = MethodType(lambda self, x: torch.relu(x + self.conv2(x)), block)


def shadowed(model: nn.Module) -> None:
    """The norm stays, and is not called any more."""
    block = at(model, "layer1.0")
    block.forward = MethodType(lambda self, x: torch.relu(x + self.conv2(x)), block)


def norm_shadowed(model: nn.Module) -> None:
    norm = at(model, "layer1.0.bn2")
    norm.forward = MethodType(lambda self, x: x * self.weight.view(-1, 1, 1), norm)


def network_shadowed(model: nn.Module) -> None:
    model.forward = MethodType(
        lambda self, x: self.fc(x.mean((2, 3)).repeat(1, 171)[:, :512]), model
    )


def class_given_back(model: nn.Module) -> None:
    at(model, "layer1.0.bn2").__class__ = nn.BatchNorm2d


def built_again(model: nn.Module) -> None:
    at(model, "layer1")[0] = type(at(families.build("torchvision/resnet18"), "layer1.0"))(64, 64)


def stage_replaced(model: nn.Module) -> None:
    model.layer1 = nn.Identity()


def stage_deleted(model: nn.Module) -> None:
    """A network that does without one of its parts."""
    del model.layer1
    model.forward = MethodType(lambda self, x: self.conv1(x), model)


def adapted(model: nn.Module) -> None:
    at(model, "layer1.0").bn2 = Adapter(at(model, "layer1.0.bn2"))


class Adapter(nn.Module):
    """A low-rank adapter as PEFT wraps a layer: it adds to what the layer computes."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Conv2d(64, 2, 1, bias=False)
        self.lora_B = nn.Conv2d(2, 64, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))  # type: ignore[no-any-return]


LOSSES: list[tuple[Change, str]] = [
    (frozen, "left out 8: layer1.0.bn2 (now a FrozenBatchNorm2d), layer1.1.bn2"),
    (frozen_by_hand, "left out 1: layer1.0.bn2 (now a FrozenBatchNorm2d)"),
    (fused, "left out 1: layer1.0.bn2 (now a Identity)"),
    (fused_in_the_dictionary, "left out 1: layer1.0.bn2 (now a Identity)"),
    (fused_and_shadowed, "left out 1: layer1.0.bn2 ("),
    (shadowed, "left out 1: layer1.0.bn2 (passed over by the forward that was set on '0')"),
    (norm_shadowed, "left out 1: layer1.0.bn2 (passed over by the forward that was set on '0.bn2'"),
    (network_shadowed, "left out 8: layer1.0.bn2 (passed over by the forward that was set on"),
    (built_again, "left out 1: layer1.0.bn2 (now a BatchNorm2d)"),
    (stage_replaced, "left out 2: layer1.0.bn2 ("),
    (stage_deleted, "left out 2: layer1.0.bn2 (not there), layer1.1.bn2 (not there)"),
    (adapted, "left out 1: layer1.0.bn2 (in an adapter's base layer)"),
]
losses = pytest.mark.parametrize(
    ("lose", "message"), LOSSES, ids=lambda v: getattr(v, "__name__", "")
)


def says_so(model: nn.Module, message: str) -> None:
    for _ in range(2):  # not only once
        with pytest.raises(InsertionError) as caught:
            output(model)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "do that first, and insert (or senet.load) then" in str(caught.value)


@losses
def test_the_next_call_names_the_blocks_that_are_lost(lose: Change, message: str) -> None:
    model = inserted()
    output(model)
    lose(model)
    says_so(model, message)


@losses
def test_so_does_a_copy_a_pickle_and_a_larger_network(lose: Change, message: str) -> None:
    model = inserted()
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))  # noqa: S301
    larger = nn.Sequential(copy.deepcopy(model), nn.Softmax(1))
    for other in (copied, pickled):
        lose(other)
        says_so(other, message)
        says_so(copy.deepcopy(other), message)
    lose(larger[0])
    says_so(larger, message)
    output(model)


@pytest.mark.parametrize("lose", [frozen, fused, stage_replaced, adapted])
def test_nothing_is_saved_with_blocks_missing(lose: Change, tmp_path: Path) -> None:
    model = inserted()
    lose(model)
    with pytest.raises(InsertionError, match=r"has left out .: layer1\.0\.bn2"):
        senet.save(model, tmp_path / "net")
    assert not (tmp_path / "net").exists()


@losses
def test_remove_is_the_way_out(lose: Change, message: str) -> None:
    model = inserted()
    lose(model)
    senet.remove(model)
    assert not guard.guarded(model)
    assert message
    if lose is not network_shadowed:
        model(EXAMPLE)


def test_a_reparameterised_network_says_so() -> None:
    model = inserted("timm/repvit_m0_9")
    fused = timm.utils.reparameterize_model(model)
    with pytest.raises(InsertionError, match=r"left out 26: stages\.0\.blocks\.0\..* and 18 more"):
        output(fused)
    output(model)


def test_a_part_says_so_where_the_network_is_not_called() -> None:
    model = inserted()
    fused(model)
    with pytest.raises(InsertionError, match=r"left out 1: layer1\.0\.bn2 \(now a Identity"):
        at(model, "layer1")(torch.randn(1, 64, 8, 8))
    parts = nn.Sequential(*list(model.children())[:-2])
    with pytest.raises(InsertionError, match=r"left out 1: layer1\.0\.bn2 \(now a Identity"):
        parts(EXAMPLE)


def test_a_compiled_call_says_so() -> None:
    torch._dynamo.reset()
    model = inserted()
    fused(model)
    with pytest.raises(InsertionError, match=r"left out 1: layer1\.0\.bn2"):
        torch.compile(model, backend="eager")(EXAMPLE)
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"the model was changed after senet\.insert"):
        torch.compile(model, backend="eager", fullgraph=True)(EXAMPLE)


# what loses nothing -------------------------------------------------------------------------


def wrapped_first(model: nn.Module) -> None:
    model.layer1 = nn.Sequential(model.layer1, nn.Identity())


def copied_part(model: nn.Module) -> None:
    model.layer1 = copy.deepcopy(model.layer1)


def compiled_part(model: nn.Module) -> None:
    model.layer1 = torch.compile(model.layer1, backend="eager")


def data_parallel_part(model: nn.Module) -> None:
    model.layer1 = nn.DataParallel(model.layer1)


def closure(forward: Any) -> Any:
    return lambda *args, **kwargs: forward(*args, **kwargs)


def wrappers_on_all(model: nn.Module) -> None:
    """As accelerate's hooks: a partial of the module, that knows the forward that was there."""

    def run(module: Any, *args: Any, **kwargs: Any) -> Any:
        return module._old_forward(*args, **kwargs)

    for module in model.modules():
        module._old_forward = module.forward
        run_module = functools.partial(run, module)
        module.forward = functools.update_wrapper(run_module, module.forward)


def wrapper_on_the_network(model: nn.Module) -> None:
    """As accelerate does for mixed precision: the class's function in a wrapper, bound again."""
    inner = model.forward.__func__  # type: ignore[attr-defined]
    model.forward = MethodType(closure(inner), model)


def closure_on_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = closure(module.forward)


def by_the_class(model: nn.Module) -> None:
    """A wrapper that finds the forward only when it runs."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = MethodType(lambda self, x: type(self).forward(self, x), module)


def hook_in_place_of_forward(model: nn.Module) -> None:
    model.layer1.register_forward_hook(lambda *_: None)


def block_replaced(model: nn.Module) -> None:
    norm = at(model, "layer1.0.bn2")
    norm.se = copy.deepcopy(norm.se)


NO_LOSSES: list[Change] = [
    wrapped_first,
    copied_part,
    compiled_part,
    data_parallel_part,
    wrappers_on_all,
    wrapper_on_the_network,
    closure_on_norms,
    by_the_class,
    hook_in_place_of_forward,
    block_replaced,
]


@pytest.mark.parametrize("change", NO_LOSSES)
def test_what_runs_the_blocks_is_let_through(change: Change) -> None:
    model = inserted()
    expected = output(model)
    change(model)
    for _ in range(2):
        torch.testing.assert_close(output(model), expected)
    assert all(
        guard._holds(m, vars(m)["_senet_guard"])
        for m in model.modules()
        if "_senet_guard" in vars(m)
    )


@pytest.mark.parametrize("part", ["layer1", "layer1.0", "layer1.0.bn2"])
def test_blocks_that_were_removed_from_a_part_are_not_lost(part: str) -> None:
    model = inserted()
    senet.remove(at(model, part))
    output(model)
    model.layer1 = nn.Identity()
    if part == "layer1":
        output(model)
    else:
        with pytest.raises(InsertionError, match=r"left out 1: layer1\.1\.bn2"):
            output(model)


def test_a_branch_that_is_not_taken_has_lost_nothing() -> None:
    torch.manual_seed(0)
    model = torchvision.models.googlenet(aux_logits=True, init_weights=False).eval()
    senet.insert(model, EXAMPLE)
    wrapper_on_the_network(model)
    output(model)


# a forward that was there before ------------------------------------------------------------


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


# what it costs ------------------------------------------------------------------------------


def test_it_costs_no_operator_and_one_call_per_part() -> None:
    model = inserted()
    bare = copy.deepcopy(model)
    for module in bare.modules():
        guard.unwatch(module)
    output(model)
    counts = []
    for network in (bare, model):
        calls: list[str] = []

        def profile(frame: Any, event: str, _: Any, calls: list[str] = calls) -> None:
            if event == "call":
                calls.append(frame.f_code.co_filename)

        with torch.profiler.profile() as operators, torch.no_grad():
            network(EXAMPLE)
        sys.setprofile(profile)
        try:
            network(EXAMPLE)
        finally:
            sys.setprofile(None)
        guards = sum(name.endswith("guard.py") for name in calls)
        counts.append((len(operators.events()), guards, len(calls)))
    (plain, none, before), (guarded, calls_of_guard, after) = counts
    assert guarded == plain
    assert none == 0
    hooks = 1 + 4  # the network and its four stages
    assert calls_of_guard == 2 * hooks
    assert after - before <= 5 * hooks  # torch's own, around a hook
