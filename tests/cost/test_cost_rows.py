"""Which module counts for which part of the network."""

from __future__ import annotations

from collections import Counter

import pytest
from torch import nn

from senet.cost.cost_rows import (
    QUANTITIES,
    Group,
    Ledger,
    Row,
    by_block,
    by_stage,
    groups_of,
    total,
)
from senet.insertion import Site


def site(path: str, block: str, stage: int = 2) -> Site:
    return Site(
        path=path,
        where="output",
        kind="batch_norm",
        unit="residual",
        block=block,
        channels=8,
        hidden=1,
        size=(4, 4),
        stage=stage,
        parameters=25,
        macs=16,
    )


def ledger(**counts: int) -> Ledger:
    paths = Counter({path.replace("_", "."): count for path, count in counts.items()})
    return dict.fromkeys(QUANTITIES, paths)


def row(plain: int | None, se: int | None) -> Row:
    one, other = (
        {**dict.fromkeys(QUANTITIES, None if value is None else Counter({"": value}))}
        for value in (plain, se)
    )
    return total({"plain": one, "se": other})


@pytest.mark.parametrize(
    ("plain", "se", "difference", "ratio"),
    [
        (4, 5, 1, 1.25),
        (4, 4, 0, 1.0),
        (0, 0, 0, 1.0),
        (0, 5, 5, None),
        (4, 0, -4, 0.0),
        (None, 5, None, None),
        (None, None, None, None),
    ],
)
def test_difference_and_ratio(
    plain: int | None, se: int | None, difference: int | None, ratio: float | None
) -> None:
    assert row(plain, se).difference("macs") == difference
    assert row(plain, se).ratio("macs") == ratio


def test_a_model_alone_has_neither() -> None:
    alone = total({"model": ledger(conv=7)})

    assert alone.values("macs") == (7,)
    assert alone.difference("macs") is None
    assert alone.ratio("macs") is None


def test_a_module_belongs_to_the_innermost_group() -> None:
    groups = (Group("layer", ("layer",), 2), Group("layer.1", ("layer.1",), 3))
    counts = ledger(stem=1, layer=2, layer_0_conv=4, layer_1=8, layer_1_conv=16, layer_10=32)

    blocks = by_block({"model": counts}, groups)
    stages = by_stage({"model": counts}, groups)

    assert [(b.name, b.values("macs")[0]) for b in blocks] == [
        ("layer", 2 + 4 + 32),
        ("layer.1", 8 + 16),
        ("other", 1),
    ]
    assert [(s.name, s.stage, s.values("macs")[0]) for s in stages] == [
        ("stage 2", 2, 38),
        ("stage 3", 3, 24),
        ("other", None, 1),
    ]


def test_what_could_not_be_counted_stays_none() -> None:
    counts = {**ledger(conv=3), "bytes_kept": None}

    (block,) = by_block({"model": counts}, (Group("conv", ("conv",)),))

    assert block.values("bytes_kept") == (None,)
    assert block.values("macs") == (3,)


def test_one_site_in_a_block_names_the_block() -> None:
    net = nn.ModuleDict({"a": nn.ModuleDict({"bn": nn.BatchNorm2d(8)}), "stem": nn.ReLU()})

    groups = groups_of([site("a.bn", "a", 3)], [net])

    assert groups == (Group("a", ("a",), 3),)


def test_several_sites_in_a_sequence_share_it_out() -> None:
    net = nn.Sequential(nn.Sequential(*[nn.ReLU() for _ in range(5)]))
    sites = [site("0.1", "0", 0), site("0.2", "0", 1), site("0.3", "0", 1)]

    groups = groups_of(sites, [net])

    assert groups == (
        Group("0.0..1", ("0.0", "0.1"), 0),
        Group("0.2", ("0.2",), 1),
        Group("0.3", ("0.3",), 1),  # and 0.4 belongs to none
    )


def test_several_sites_elsewhere_are_parts_of_their_own() -> None:
    net = nn.ModuleDict({"a": nn.ReLU(), "b": nn.ReLU(), "c": nn.ReLU()})

    groups = groups_of([site("b", ""), site("c", "")], [net])

    assert groups == (Group("b", ("b",), 2), Group("c", ("c",), 2))


def test_the_whole_model_can_be_the_block() -> None:
    net = nn.ModuleDict({"a": nn.ReLU()})

    groups = groups_of([site("a", "")], [net])
    blocks = by_block({"model": ledger(a=1, b_c=2)}, groups)

    assert [(b.name, b.values("macs")[0]) for b in blocks] == [("(model)", 3)]


def test_without_sites_the_children_are_the_parts() -> None:
    nets = [nn.ModuleDict({"a": nn.ReLU(), "b": nn.ReLU()}), nn.ModuleDict({"c": nn.ReLU()})]

    groups = groups_of([], nets)

    assert [group.name for group in groups] == ["a", "b", "c"]
    assert by_stage({"model": ledger(a=1)}, groups) == ()
