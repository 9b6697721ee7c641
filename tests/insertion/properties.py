"""What must hold for every network that SE blocks are inserted into, as functions that raise.

The tests check a table of families with them, and `make sweep` all that timm and torchvision have.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import senet

Build = Callable[[], nn.Module]


def outputs(model: nn.Module, example: Any, *, seed: int = 1) -> list[Tensor]:
    """Run a model (dropout and drop path drawn with the seed) and return the tensors it returns."""
    torch.manual_seed(seed)
    out = model(*example) if isinstance(example, tuple) else model(example)
    if not isinstance(out, Tensor | list | tuple | dict):
        out = dict(out)
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


def assert_same(first: list[Tensor], second: list[Tensor], what: str) -> None:
    assert len(first) == len(second), f"{what}: {len(first)} tensors against {len(second)}"
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b), f"{what}: outputs differ by up to {(a - b).abs().max()}"


def hooks(model: nn.Module) -> int:
    """The number of hooks on all modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def anatomy(model: nn.Module) -> list[Any]:
    """Types, keys and hooks: what removal must bring back."""
    types = [(path, type(module)) for path, module in model.named_modules()]
    return [types, list(model.state_dict()), hooks(model)]


def exact(base: nn.Module, changed: nn.Module, example: Any, *, modes: str = "both") -> None:
    """Property 1: the same outputs and statistics, bit for bit, in evaluation and training.

    With the reference computation; see `fused` for the other.
    """
    with senet.use_backend("reference"):
        _exact(base, changed, example, modes=modes)


def _exact(base: nn.Module, changed: nn.Module, example: Any, *, modes: str) -> None:
    for training in (False, True) if modes == "both" else (False,):
        plain, se = copy.deepcopy(base).train(training), copy.deepcopy(changed).train(training)
        with torch.no_grad():
            expected, got = outputs(plain, example), outputs(se, example)
        assert_same(expected, got, "training" if training else "evaluation")
        after = se.state_dict()
        for key, value in plain.state_dict().items():
            assert torch.equal(value, after[key]), f"{key} differs after a forward pass"


def fused(base: nn.Module, changed: nn.Module, example: Any) -> None:
    """Property 1 in closed form: outputs equal but for rounding, every predicted class the same."""
    plain, se = copy.deepcopy(base).eval(), copy.deepcopy(changed).eval()
    with torch.no_grad():
        expected = outputs(plain, example)
        with senet.use_backend("eager"):
            got = outputs(se, example)
    for a, b in zip(expected, got, strict=True):
        assert (a - b).abs().max() <= 1e-4 * a.abs().max(), "in closed form outputs differ"
        if a.dim() == 2:
            assert torch.equal(a.argmax(1), b.argmax(1)), "in closed form classes differ"


def silent_blocks(changed: nn.Module, example: Any) -> list[str]:
    """The blocks that get no gradient in the first step of training."""
    model = copy.deepcopy(changed).train()
    maps = [leaf for leaf in outputs(model, example) if leaf.requires_grad]
    torch.manual_seed(2)
    sum((leaf * torch.randn_like(leaf)).sum() for leaf in maps).backward()  # type: ignore[union-attr]
    return [
        path
        for path, block in senet.se_modules(model).items()
        if not any(p.grad is not None and bool((p.grad != 0).any()) for p in block.parameters())
    ]


def keys_stay(base: nn.Module, changed: nn.Module) -> None:
    """Property 2: all keys of the base are there; its checkpoint lacks only the blocks' keys."""
    before = base.state_dict()
    ours = {
        f"{path}.{name}"
        for path, se in senet.se_modules(changed).items()
        for name in se.state_dict()
    }
    assert set(changed.state_dict()) == set(before) | ours
    result = copy.deepcopy(changed).load_state_dict(before, strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) <= ours


def saves_and_loads(build: Build, changed: nn.Module, example: Any) -> None:
    """Property 2: rebuilt on a fresh base under another seed, the model computes the same."""
    model = copy.deepcopy(changed).eval()
    torch.manual_seed(3)
    for block in senet.se_modules(model).values():
        nn.init.normal_(block.fc2.weight, std=0.1)
    with tempfile.TemporaryDirectory() as folder:
        senet.save(model, folder)
        torch.manual_seed(4)
        fresh = build().eval()
        senet.load(fresh, folder)
    with torch.no_grad():
        assert_same(outputs(model, example), outputs(fresh, example), "after save and load")


def removes(base: nn.Module, changed: nn.Module, example: Any) -> None:
    """Property 3: removal gives back types, keys, hooks and outputs."""
    model = copy.deepcopy(changed)
    senet.remove(model)
    assert anatomy(model) == anatomy(base)
    with torch.no_grad():
        assert_same(
            outputs(copy.deepcopy(base).eval(), example), outputs(model.eval(), example), "removed"
        )


def check(
    build: Build, example: Any, config: senet.SEConfig | None = None, *, modes: str = "both"
) -> senet.InsertionReport:
    """Insert, check the properties, and return the report."""
    torch.manual_seed(0)
    base = build()
    changed = copy.deepcopy(base)
    report = senet.insert(changed, example, config)
    check_changed(build, base, changed, example, modes=modes)
    return report


def check_changed(
    build: Build, base: nn.Module, changed: nn.Module, example: Any, *, modes: str = "both"
) -> None:
    """Check the properties of a network that was changed already."""
    for path, module in base.named_modules():
        assert changed.get_submodule(path).training == module.training, path
    exact(base, changed, example, modes=modes)
    if isinstance(example, Tensor):  # a detector's list of boxes may change its order by rounding
        fused(base, changed, example)
    keys_stay(base, changed)
    saves_and_loads(build, changed, example)
    removes(base, changed, example)


def compiles(changed: nn.Module, example: Any, backend: str = "eager") -> None:
    """Property 4: the whole network is one graph to torch.compile, with the same outputs."""
    model = copy.deepcopy(changed).eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        for a, b in zip(outputs(model, example), outputs(compiled, example), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def exports(changed: nn.Module, example: Any) -> None:
    """Property 4: torch.export takes the network, and the program computes the same."""
    model = copy.deepcopy(changed).eval()
    args = example if isinstance(example, tuple) else (example,)
    with torch.no_grad():
        program = torch.export.export(model, args).module()
        for a, b in zip(outputs(model, example), outputs(program, example), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
