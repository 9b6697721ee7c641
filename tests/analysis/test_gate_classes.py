"""Classes that are alike, channels that tell two apart, and what is said of blocks in words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from analysis.test_gate_sums import gather
from senet.analysis import BlockGates, Gates
from senet.analysis.gate_classes import class_contrast, class_similarity
from senet.analysis.gate_costs import ALL, BlockCost, GateCosts
from senet.analysis.gate_findings import findings, kinds_of
from senet.analysis.stats import Estimate
from senet.errors import InputError, UnknownNameError

CLASSES = ("cat", "dog", "car", "bus")


def _gates(*, images: int = 400, block_of: torch.Tensor | None = None) -> Gates:
    """Cats and dogs open the first three of eight channels, cars and buses close them.

    Channel 5 alone tells cats from dogs.
    """
    labels = torch.arange(images) % 4
    s = 0.5 + 0.1 * (torch.rand(images, 8, dtype=torch.float64) - 0.5)
    s[:, :3] += torch.where(labels < 2, 0.1, -0.1)[:, None]
    s[:, 5] += 0.08 * (labels == 0)
    s = (s * 2**24).round() / 2**24
    if block_of is not None:
        s = block_of.expand(images, -1)
    return Gates(CLASSES, (_block("layer1.se", s, labels),))


def _block(path: str, s: torch.Tensor, labels: torch.Tensor) -> BlockGates:
    return BlockGates(path, 0, 1.0, 1, gather(s, labels, [len(s)], 4))


def test_classes_that_open_the_same_channels_are_alike() -> None:
    similarity = class_similarity(_gates())
    cosine = similarity.cosine

    assert torch.allclose(cosine.diagonal(), torch.ones(4, dtype=torch.float64))
    assert cosine[0, 1] > 0.8
    assert cosine[2, 3] > 0.9
    assert (cosine[:2, 2:] < -0.7).all()
    order = [similarity.classes[k] for k in similarity.order()]
    assert {frozenset(order[:2]), frozenset(order[2:])} == {
        frozenset(("cat", "dog")),
        frozenset(("car", "bus")),
    }
    first, second, value = similarity.alike(1)[0]
    assert {first, second} == {"car", "bus"}
    assert value == cosine.triu(1).max().item()


def test_reliability_is_the_share_that_would_come_again() -> None:
    labels = torch.arange(4000) % 4
    noise = torch.rand(4000, 200, dtype=torch.float64)
    similarity = class_similarity(Gates(CLASSES, (_block("se", noise, labels),)))
    assert (similarity.reliability < 0.25).all()  # labels that say nothing
    assert (class_similarity(_gates()).reliability > 0.9).all()


def test_the_channel_that_tells_two_classes_apart_comes_first() -> None:
    gates = _gates()
    best, *others = class_contrast(gates, "cat", "dog")

    mean = gates.blocks[0].mean
    assert (best.path, best.channel, best.certain) == ("layer1.se", 5, True)
    assert best.difference.value == pytest.approx((mean[0, 5] - mean[1, 5]).item(), rel=1e-9)
    assert best.difference.low < 0.08 < best.difference.high
    assert best.effect == pytest.approx(0.08 / (0.1 / math.sqrt(12)), rel=0.1)
    assert not any(each.certain for each in others)
    sizes = [abs(each.effect) for each in (best, *others)]
    assert sizes == sorted(sizes, reverse=True)
    assert {each.channel for each in class_contrast(gates, "cat", "bus")[:4]} == {0, 1, 2, 5}
    assert len(class_contrast(gates, "cat", "bus", count=2)) == 2


def test_what_has_no_classes_to_compare_is_refused() -> None:
    gates = _gates(images=3)  # no bus
    with pytest.raises(UnknownNameError, match="cat"):
        class_contrast(gates, "cta", "dog")
    with pytest.raises(InputError, match="class 'bus' must have an image"):
        class_contrast(gates, "cat", "bus")
    with pytest.raises(InputError, match="'dog' twice"):
        class_contrast(gates, "dog", "dog")
    with pytest.raises(UnknownNameError, match="layer1"):
        class_similarity(gates, ["layer9.se"])
    with pytest.raises(InputError, match="no gate varies within a class"):
        class_similarity(_gates(block_of=torch.full((8,), 0.5, dtype=torch.float64)))
    with pytest.raises(InputError, match="from two on"):
        class_similarity(_gates(images=1))


def _blocks(images: int = 800) -> Gates:
    """A constant, a closed, a saturated, a random and a class-specific block."""
    labels = torch.arange(images) % 4
    dice = torch.rand(images, 6, dtype=torch.float64)
    values = {
        "stage1.se": 0.5 + 1e-4 * dice,
        "stage2.se": 0.04 * dice,
        "stage3.se": 0.951 + 0.02 * dice,
        "stage4.se": 0.2 + 0.6 * dice,
        "stage5.se": 0.3 + 0.1 * labels[:, None] + 0.1 * dice,
    }
    blocks = []
    for path, s in values.items():
        block = _block(path, (s * 2**24).round() / 2**24, labels)
        for group in range(10):  # a map of u = 1, -1: E u = 0, E u^2 = 1
            part = torch.arange(images) % 10 == group
            of = torch.stack([torch.ones_like(s), s, s * s, torch.zeros_like(s)])
            block.sums.map[:, group] = of[:, part].sum(1)
            block.sums.images[group] = int(part.sum())
        blocks.append(block)
    return Gates(CLASSES, tuple(blocks))


def _costs(accuracy: float, half: float, *, blocks: Gates) -> GateCosts:
    cost = BlockCost(Estimate(accuracy, accuracy - half, accuracy + half), Estimate(0.0, 0.0, 0.0))
    each = {block.path: cost for block in blocks.blocks} | {ALL: cost}
    return GateCosts(1000, 0.9, 0.3, each, each)


def test_blocks_are_named_for_what_they_do() -> None:
    gates = _blocks()
    kinds = {block.path: kinds_of(block) for block in gates.blocks}

    assert kinds["stage1.se"] == ["constant", "class-agnostic"]
    assert "dead" in kinds["stage2.se"]
    assert kinds["stage3.se"] == ["saturated", "constant", "class-agnostic"]
    assert kinds["stage4.se"] == ["class-agnostic"]
    assert kinds["stage5.se"] == ["class-specific"]


def test_a_block_without_which_nothing_is_worse_is_a_constant_too() -> None:
    gates = _blocks()
    worse, equal = (_costs(value, 0.0005, blocks=gates) for value in (-0.02, 0.0))

    assert "constant" not in kinds_of(gates.block("stage4.se"), worse)
    assert "constant" in kinds_of(gates.block("stage4.se"), equal)


def test_the_paragraph_says_what_is_there() -> None:
    gates = _blocks()
    costs, none = (_costs(value, 0.005, blocks=gates) for value in (-0.02, 0.0))
    still = {path: none.constant[path] for path in ("stage1.se", "stage3.se")}
    said = findings(gates, replace(costs, constant={**costs.constant, **still}))

    assert said.startswith(
        "Of 5 blocks, 2 do nothing that a constant would not do: stage1 and stage3. "
    )
    assert "1 is closed (95 % of the gates or more are below 0.05): stage2." in said
    assert "1 is saturated (half of the gates or more are near an end of their range)" in said
    assert "1 is class-specific: stage5." in said
    assert "the accuracy changes by \u22122.00 points (\u22122.50 to \u22121.50)" in said
    assert "on 1,000 images" in said
    assert "worth most in stage2" in said
    # a gate that hardly moves is no constant where the accuracy falls without its moves
    assert findings(gates, costs).startswith("Of 5 blocks, none does only what a constant")


def test_the_paragraph_of_one_block_of_all_and_of_one_class() -> None:
    one = Gates(CLASSES, (_blocks().block("stage4.se"),))
    assert findings(one).startswith("Of 1 block, none does only what a constant would do too.")
    block = _blocks().blocks[0]
    still = Gates(CLASSES, (block, replace(block, path="stage2.se")), never_ran=("spare",))
    said = findings(still)
    assert said.startswith("All 2 blocks do nothing that a constant would not do.")
    assert said.endswith("Never reached by a forward pass: spare.")
    s = 0.2 + 0.6 * torch.rand(50, 4, dtype=torch.float64)
    alone = BlockGates("se", 0, 1.0, 1, gather(s, torch.zeros(50).long(), [50], 1))
    assert "class" not in findings(Gates(("all",), (alone,)))
