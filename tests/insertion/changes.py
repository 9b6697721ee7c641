"""What other code does to a network with blocks: conversions, fusions, forwards on objects."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import families
import timm
import torch
import torchvision
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import senet

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


def by_torch(model: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def by_timm(model: nn.Module) -> nn.Module:
    return timm.layers.convert_sync_batchnorm(model)  # type: ignore[no-any-return]


def by_lightning(model: nn.Module) -> nn.Module:
    return TorchSyncBatchNorm().apply(model)


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


def block_gone(model: nn.Module) -> None:
    del at(model, "layer1.0.bn2").se


def block_made_an_identity(model: nn.Module) -> None:
    at(model, "layer1.0.bn2").se = nn.Identity()


def block_compiled(model: nn.Module) -> None:
    norm = at(model, "layer1.0.bn2")
    norm.se = torch.compile(norm.se, backend="eager")


def block_of_a_subclass(model: nn.Module) -> None:
    class Own(senet.SqueezeExcitation):  # type: ignore[misc]
        pass

    at(model, "layer1.0.bn2").se.__class__ = Own


def block_replaced(model: nn.Module) -> None:
    norm = at(model, "layer1.0.bn2")
    norm.se = copy.deepcopy(norm.se)
