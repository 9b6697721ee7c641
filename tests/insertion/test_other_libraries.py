"""What other libraries read of a network with blocks, and what they do to its classes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import families
import properties
import pytest
import torch
from changes import EXAMPLE, at, inserted, output
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops._utils import split_normalization_params

import senet
from senet.errors import InputError

Groups = list[list[nn.Parameter]]
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


def by_torchvision(model: nn.Module) -> Groups:
    return [list(group) for group in split_normalization_params(model)]


def by_recursion(model: nn.Module) -> Groups:
    """As torchvision's reference training: own parameters, then those of the named children."""
    norms: list[nn.Parameter] = []
    others: list[nn.Parameter] = []

    def add(module: nn.Module) -> None:
        own = module.named_parameters(recurse=False)
        (norms if isinstance(module, NORMS) else others).extend(p for _, p in own)
        for _, child in module.named_children():
            add(child)

    add(model)
    return [norms, others]


def by_timm(model: nn.Module) -> Groups:
    return [group["params"] for group in param_groups_weight_decay(model, 0.1)]


def by_timm_layers(model: nn.Module) -> Groups:
    return [group["params"] for group in param_groups_layer_decay(model, 0.1)]


def by_name_without_norms(model: nn.Module) -> Groups:
    """As Hugging Face's trainer: names of what is in no norm."""

    def names(module: nn.Module) -> list[str]:
        below = [
            f"{name}.{inner}"
            for name, child in module.named_children()
            if not isinstance(child, NORMS)
            for inner in names(child)
        ]
        return below + list(module._parameters)

    decay = set(names(model))
    named = list(model.named_parameters())
    return [[p for n, p in named if n in decay], [p for n, p in named if n not in decay]]


def by_leaves(model: nn.Module) -> Groups:
    """Modules without children, in three ways to ask."""
    leaves = [m for m in model.modules() if not list(m.children())]
    assert leaves == [m for m in model.modules() if next(m.children(), None) is None]
    norms = [p for m in leaves if isinstance(m, NORMS) for p in m.parameters()]
    others = [p for m in leaves if not isinstance(m, NORMS) for p in m.parameters()]
    return [norms, others]


def by_norm(model: nn.Module) -> Groups:
    """As minGPT: each module's parameters by name, and none in two groups."""
    norms, others = {}, {}
    for module in model.modules():
        group = norms if isinstance(module, NORMS) else others
        if isinstance(module, NORMS) or not list(module.children()):
            group.update({id(p): p for _, p in module.named_parameters()})
    assert not norms.keys() & others.keys()
    return [list(norms.values()), list(others.values())]


WAYS: list[Callable[[nn.Module], Groups]] = [
    by_torchvision,
    by_recursion,
    by_timm,
    by_timm_layers,
    by_name_without_norms,
    by_leaves,
    by_norm,
]


def named(model: nn.Module, parameters: Iterable[nn.Parameter]) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in parameters}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", ["timm/resnet18", "torchvision/vgg11"])
def test_the_base_gets_the_groups_it_had(way: Callable[[nn.Module], Groups], network: str) -> None:
    model = families.build(network)
    before = [named(model, group) for group in way(model)]
    base = {name for name, _ in model.named_parameters()}
    senet.insert(model, EXAMPLE)
    groups = way(model)
    after = [named(model, group) & base for group in groups]
    assert [group for group in after if group] == [group for group in before if group]
    everything = [p for group in groups for p in group]
    assert len({id(p) for p in everything}) == len(everything)
    ours = {id(p) for p in senet.se_parameters(model).se}
    assert ours <= {id(p) for p in everything}


def test_the_module_itself_still_moves_its_block() -> None:
    model = inserted()
    norm = at(model, "layer1.0.bn2")
    norm.double().train()
    assert norm.se.fc1.weight.dtype == torch.float64
    assert norm.se.training
    met: list[nn.Module] = []
    norm.apply(met.append)
    assert norm.se in met
    assert "se.fc1.weight" in norm.state_dict()
    assert "se" in dict(norm.named_children())


def test_a_block_that_was_written_shows_itself() -> None:
    norm = senet.SEBatchNorm2d(8)
    assert list(norm.children()) == [norm.se]
    assert len(list(norm.parameters())) == 6


def spectral(model: nn.Module) -> None:
    parametrizations.spectral_norm(at(model, "1.conv"))


def unspectral(model: nn.Module) -> None:
    parametrize.remove_parametrizations(at(model, "1.conv"), "weight")


def second(model: nn.Module) -> None:
    parametrize.register_parametrization(at(model, "1.conv"), "bias", nn.Identity())


def insert(model: nn.Module) -> None:
    senet.insert(model, EXAMPLE)


def remove(model: nn.Module) -> None:
    senet.remove(model)


class Block(nn.Module):
    def __init__(self, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(8, 8, 3, padding=1), conv or nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(torch.relu(self.first(x)))  # type: ignore[no-any-return]


ORDERS = [
    (spectral, insert),
    (insert, spectral),
    (spectral, insert, unspectral),
    (spectral, insert, unspectral, remove),
    (spectral, insert, remove),
    (spectral, insert, remove, unspectral),
    (spectral, insert, second, remove, insert),
    (insert, spectral, unspectral),
    (insert, spectral, remove),
    (insert, spectral, remove, unspectral),
    (insert, spectral, unspectral, remove),
]


@pytest.mark.parametrize("steps", ORDERS, ids=lambda steps: "-".join(s.__name__ for s in steps))
def test_parametrisations_and_blocks_in_any_order(steps: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Block()).eval()
    types, keys, hooks = properties.anatomy(model)
    plain = [types, sorted(keys), hooks]
    for step in steps:
        step(model)
        before = output(model)
        assert torch.equal(output(copy.deepcopy(model)), before)
    names = [step.__name__ for step in steps]
    present = names.count("insert") > names.count("remove")
    assert len(senet.se_modules(model)) == present
    if present:
        block = at(model, "1.conv.se")
        nn.init.normal_(block.fc2.bias)
        assert not torch.allclose(output(model), before)
    elif names.count("unspectral") == names.count("spectral"):
        types, keys, hooks = properties.anatomy(model)
        assert [types, sorted(keys), hooks] == plain  # torch puts the weight back at the end


class WithState(nn.Conv2d):
    """A convolution that says itself what its pickle holds."""

    def __getstate__(self) -> dict[str, Any]:
        return {"weight": self.weight, "bias": self.bias, "training": self.training}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(8, 8, 3, padding=1)  # type: ignore[misc]
        self.weight, self.bias = state["weight"], state["bias"]
        self.train(state["training"])


class WithReduce(nn.Conv2d):
    def __reduce__(self) -> Any:
        return _reduced, (self.weight.detach().clone(), self.bias.detach().clone())  # type: ignore[union-attr]


class WithCopy(nn.Conv2d):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return _reduced(self.weight.detach().clone(), self.bias.detach().clone())  # type: ignore[union-attr]


def _reduced(weight: Tensor, bias: Tensor) -> nn.Module:
    module = WithReduce(8, 8, 3, padding=1)
    module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
    return module


@pytest.mark.parametrize("kind", [WithState, WithReduce, WithCopy])
def test_hosts_that_say_how_they_are_copied(kind: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Block(kind(8, 8, 3, padding=1))).eval()
    senet.insert(model, EXAMPLE)
    nn.init.normal_(at(model, "1.conv.se").fc2.bias)
    copies = [copy.deepcopy(model)]
    if kind is not WithCopy:
        copies.append(pickle.loads(pickle.dumps(model)))  # noqa: S301 our own bytes
    for other in copies:
        assert torch.equal(output(other), output(model))
        assert at(other, "1.conv.se") is not at(model, "1.conv.se")
        assert len(senet.remove(other)) == 1


@pytest.mark.parametrize("integration", ["standard", "pre", "post", "inner"])
def test_a_tracer_goes_through(integration: str) -> None:
    model = inserted(integration=integration)
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    torch.testing.assert_close(output(traced), output(model))
    extractor = create_feature_extractor(copy.deepcopy(model), ["layer1", "fc"])
    torch.testing.assert_close(extractor(EXAMPLE)["fc"], model(EXAMPLE))


def test_a_network_that_was_written_with_blocks_is_traced() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), senet.SEBatchNorm2d(8), senet.SqueezeExcitation(8))
    torch.testing.assert_close(torch.fx.symbolic_trace(model.eval())(EXAMPLE), model(EXAMPLE))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_scripting_says_what_to_do_instead() -> None:
    with pytest.raises(InputError, match=r"got one that has some; use torch\.export\.export"):
        torch.jit.script(inserted())
