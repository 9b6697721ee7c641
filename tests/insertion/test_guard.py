"""A block that is there is run, or the next call says that it is not."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from changes import (
    EXAMPLE,
    Change,
    adapted,
    at,
    block_compiled,
    block_gone,
    block_made_an_identity,
    block_of_a_subclass,
    block_replaced,
    built_again,
    by_the_class,
    class_given_back,
    closure_on_norms,
    compiled_part,
    copied_part,
    data_parallel_part,
    frozen,
    frozen_by_hand,
    fused,
    fused_and_shadowed,
    fused_in_the_dictionary,
    hook_in_place_of_forward,
    inserted,
    network_shadowed,
    norm_shadowed,
    output,
    shadowed,
    stage_deleted,
    stage_replaced,
    wrapped_first,
    wrapper_on_the_network,
    wrappers_on_all,
)
from torch import nn

import senet
from senet.errors import InsertionError
from senet.insertion import guard

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
    (block_gone, "left out 1: layer1.0.bn2 (its child se is gone)"),
    (block_made_an_identity, "left out 1: layer1.0.bn2 (its child se is of class Identity now)"),
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


@pytest.mark.parametrize(
    "lose", [frozen, fused, stage_replaced, adapted, block_gone, block_made_an_identity]
)
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


NO_LOSSES: list[Change] = [
    class_given_back,
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
    block_compiled,
    block_of_a_subclass,
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
